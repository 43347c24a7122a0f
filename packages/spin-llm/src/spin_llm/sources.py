"""Data and models as commands name them, tokenised, with what was cut or left out told in the log."""

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared_core.errors import InputError
from torch import nn

from spin_llm.choices import Turns
from spin_llm.config import SPINConfig
from spin_llm.docstrings import docstring_examples, module_of
from spin_llm.models import check_context
from spin_llm.records import Example, read_examples, split_examples
from spin_llm.rendering import Renderer, Tokenizer, Tokens, cut, fill_template

log = logging.getLogger(__name__)
DOCSTRINGS = "docstrings"


@dataclass(frozen=True)
class Records:
    """Examples as they were read, before any model is there.

    Args:
        train: trained on.
        held_out: kept for evaluation.
        skip_bad: leave out those that the template cannot render.
    """

    train: list[Example]
    held_out: list[Example]
    skip_bad: bool


@dataclass(frozen=True)
class Data:
    """Token ids for training and for evaluation, and the examples that they were made from."""

    train: list[Tokens]
    held_out: list[Tokens]
    examples: list[Example]


def load_examples(
    source: str, turns: Turns = "first", skip_bad: bool = False, seed: int = 0
) -> tuple[list[Example], list[str]]:
    """Examples, shuffled where they are the embedded documentation, and the group of each (never split in two)."""
    if source == DOCSTRINGS:
        examples = docstring_examples()
        random.Random(seed).shuffle(examples)
        return examples, [module_of(example) for example in examples]
    reading = read_examples(source, turns, skip_bad)
    _tell(reading.skipped, len(reading.skipped) + len(reading.examples))
    return reading.examples, [example.id for example in reading.examples]


def read_data(
    source: str,
    config: SPINConfig,
    *,
    limit: int | None = None,
    held_out: int = 0,
    turns: Turns = "first",
    skip_bad: bool = False,
) -> Records:
    """Read and split, with all that can be wrong without a model.

    Args:
        source: a file or folder (see `read_examples`), or `docstrings`.
        config: templates and seed.
        limit: train on so many examples.
        held_out: the first so many are kept for evaluation.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.

    Raises:
        InputError: naming file, record and field, or the option that leaves nothing.
    """
    for name, value in (("limit", limit), ("held_out", held_out)):
        if value is not None and value < 0:
            raise InputError(f"{name} must be 0 or more, got {value}")
    examples, groups = load_examples(source, turns, skip_bad, config.seed)
    test, rest = split_examples(examples, held_out, groups)
    chosen, test = rest[:limit] if limit is not None else rest, test[:held_out]
    if not chosen:
        given = f"held_out {held_out}" + (f" and limit {limit}" if limit is not None else "")
        raise InputError(f"{given}: none of {len(examples)} examples is left to train on")
    if config.template is not None and not skip_bad:
        _check_prompts([*chosen, *test], config.template)
    elif config.template is None and config.generation_template is not None:
        _check_prompts(chosen, config.generation_template)
    return Records(chosen, test, skip_bad)


def _check_prompts(examples: Sequence[Example], template: str) -> None:
    for example in examples:
        fill_template(template, example.prompt, example.id)


def tokenize_data(records: Records, model: nn.Module, tokenizer: Tokenizer, config: SPINConfig) -> Data:
    """Render and cut what was read.

    Args:
        records: from `read_data`.
        model: whose context the rows must fit.
        tokenizer: its.
        config: template and limits.

    Raises:
        InputError: naming an example that the template cannot render, or the row that is too long for the model.
    """
    renderer = Renderer(tokenizer, config.template)
    train, held = (_tokens(part, renderer, config, records.skip_bad) for part in (records.train, records.held_out))
    for what, part in (("train", train), ("held-out", held)):
        cuts = Counter(item.cut for item in part if item.cut)
        if cuts:
            log.warning("%s: cut to the limits: %s", what, ", ".join(f"{name} {count}" for name, count in cuts.items()))
    longest = [len(item.prompt) + max(len(item.real), config.sampler.max_new_tokens) for item in [*train, *held]]
    check_context(model, longest, "the longest row (prompt and response, or max_new_tokens)")
    return Data(train, held, [*records.train, *records.held_out])


def render_examples(
    examples: Sequence[Example], renderer: Renderer, skip_bad: bool = False
) -> list[tuple[Example, list[int], list[int]]]:
    """Each example with the token ids of its prompt and its response.

    Raises:
        InputError: for the first example that the template cannot render, unless such are to be skipped.
    """
    found, skipped = [], []
    for example in examples:
        try:
            found.append((example, *renderer.pair(example)))
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    _tell(skipped, len(examples))
    return found


def _tell(skipped: Sequence[str], total: int) -> None:
    for line in skipped[:5]:
        log.warning("skipped: %s", line)
    if skipped:
        log.warning("skipped %d of %d records", len(skipped), total)


def _tokens(examples: Sequence[Example], renderer: Renderer, config: SPINConfig, skip_bad: bool) -> list[Tokens]:
    rendered = render_examples(examples, renderer, skip_bad)
    return [cut(example.id, prompt, real, config.limits) for example, prompt, real in rendered]
