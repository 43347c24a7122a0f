"""Messages to token ids: one rendering for sampling, training and evaluation, or the theory does not apply.

The prompt's ids must be a prefix of the whole conversation's; that is checked for every example. A response keeps the
end-of-turn token that the template gives it and loses what the template writes after that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shared_core.errors import InputError

from spin_llm.records import Example, Message

Tokenizer = Any  # transformers has no common public type for its two tokenizer families


@dataclass(frozen=True)
class TokenLimits:
    """How long rows may be.

    Args:
        max_length: tokens of prompt and response; the response is cut on the right, and then has no end token.
        max_prompt_length: tokens of the prompt; it is cut on the left first.

    Raises:
        InputError: if no room is left for a response.
    """

    max_length: int = 1024
    max_prompt_length: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.max_prompt_length < self.max_length:
            raise InputError(
                f"max_prompt_length must be at least 1 and below max_length, got {self.max_prompt_length} and "
                f"{self.max_length}"
            )


@dataclass(frozen=True)
class Tokens:
    """One example as token ids.

    Args:
        id: the example's.
        prompt: ids of the rendered prompt, the assistant's header included.
        real: ids of the response, its end token included unless it was cut.
        cut: `prompt`, `response`, `both` or empty: what did not fit.
    """

    id: str
    prompt: tuple[int, ...]
    real: tuple[int, ...]
    cut: str = ""


def check_template(template: str | None, name: str = "template") -> None:
    """Refuse a format string without a place for the prompt.

    Raises:
        InputError: naming the setting.
    """
    if template is not None and "{prompt}" not in template:
        raise InputError(f"{name} must hold {{prompt}}, got {template!r}")


def fill_template(template: str, messages: Sequence[Message], id: str = "") -> str:
    """A format string with the prompt in its place.

    Raises:
        InputError: for a conversation of several messages, naming the example.
    """
    if len(messages) != 1:
        where = f"example {id}: " if id else ""
        raise InputError(f"{where}a format string renders a single user message; use a chat template for conversations")
    return template.replace("{prompt}", messages[0]["content"])


@dataclass(frozen=True)
class Renderer:
    """Renders with the tokenizer's chat template, or with a format string that holds `{prompt}`.

    Raises:
        InputError: if there is neither, or the tokenizer has no end token.
    """

    tokenizer: Tokenizer
    template: str | None = None

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.template is None and not getattr(self.tokenizer, "chat_template", None):
            raise InputError("the tokenizer has no chat template: give one by --template 'Question: {prompt} Answer: '")
        if self.tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-sequence token, so a response could never end")

    @cached_property
    def end_ids(self) -> list[int]:
        """Tokens that end a response: the end of sequence, and the template's end of turn where that is another."""
        ids = {int(self.tokenizer.eos_token_id)}
        if self.template is None:
            ids |= {token for token in self._ids(self._after_probe()) if token in set(self.tokenizer.all_special_ids)}
        return sorted(ids)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt, up to where the assistant begins to write."""
        return self._ids(self._prompt_text(messages))

    def pair(self, example: Example, response: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of a response to it (the example's own by default).

        Raises:
            InputError: if the prompt's ids are not a prefix of the whole's: this template cannot be used.
        """
        text = example.response if response is None else response
        before = self._prompt_text(example.prompt)
        prompt = self._ids(before)
        if self.template is not None:
            whole, end = self._ids(before + text), [int(self.tokenizer.eos_token_id)]
        else:
            after = self._whole_text(example.prompt, text)
            if not after.startswith(before):
                raise InputError(f"example {example.id}: the template rewrites the prompt when a response follows")
            whole, end = self._ids(after), []
        if whole[: len(prompt)] != prompt:
            raise InputError(f"example {example.id}: the prompt's tokens are no prefix of prompt and response's")
        real = whole[len(prompt) :] + end
        ends = [index for index, token in enumerate(real) if token in self.end_ids]
        real = real[: ends[0] + 1] if ends else [*real, int(self.tokenizer.eos_token_id)]
        if len(real) <= 1:
            raise InputError(f"example {example.id}: the response has no tokens")
        return prompt, real

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        if self.template is None:
            return self._apply(list(messages), add_generation_prompt=True)
        return fill_template(self.template, messages)

    def _whole_text(self, messages: Sequence[Message], response: str) -> str:
        return self._apply([*messages, {"role": "assistant", "content": response}])

    def _apply(self, messages: list[Message], **options: bool) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except Exception as error:  # the template is a program in the tokenizer's files
            raise InputError(f"the chat template fails: {' '.join(str(error).split())}") from error

    def _after_probe(self) -> str:
        """What the template writes after a response."""
        marker = "wxyz"
        return self._whole_text([{"role": "user", "content": "abcd"}], marker).rpartition(marker)[2]

    def _ids(self, text: str) -> list[int]:
        # a chat template writes its own beginning-of-sequence token
        special = self.template is not None
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])


def tokenize(examples: Sequence[Example], renderer: Renderer, limits: TokenLimits) -> list[Tokens]:
    """Token ids of every example, cut to the limits."""
    return [cut(example.id, *renderer.pair(example), limits) for example in examples]


def cut(id: str, prompt: Sequence[int], response: Sequence[int], limits: TokenLimits) -> Tokens:
    """Cut the prompt on the left, then the response on the right, and say so."""
    short = prompt[max(0, len(prompt) - limits.max_prompt_length) :]
    room = limits.max_length - len(short)
    what = {(True, True): "both", (True, False): "prompt", (False, True): "response"}.get(
        (len(short) < len(prompt), room < len(response)), ""
    )
    return Tokens(id, tuple(short), tuple(response[:room]), what)
