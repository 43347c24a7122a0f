"""A constructed task that a small language model, trained here from scratch, really misreads.

A demonstration of the mechanism, not evidence about large models. Coin questions have two frames: a flip reverses the
coin (intended), or tosses it (then the answer is `unknown` once anybody flips). The corpus decides how often a bare
question is read in the intended frame (`bare`), how often a rephrasing names it (`rephrased`), and holds worked steps.
The prompts are those of the `paper` template set; a phrase of them is one token of a word-level tokenizer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rar_prompt.frame_model import FrameModel
from rar_prompt.items import Item
from rar_prompt.templates import TemplateSet, load_templates

if TYPE_CHECKING:
    import torch

PEOPLE: tuple[str, ...] = ("ana", "ben", "cai", "dan", "eva", "fay", "gus", "hal", "ida", "jon")
PEOPLE += ("kim", "leo", "mia", "ned", "oda", "pam", "quy", "ron", "sue", "tom")
START, ASK = "A coin is heads up.", "Is the coin still heads up?"
FLIP, KEEP = "flips the coin.", "does not flip the coin."
MEANS = ("Flip means reverse.", "Flip means toss.")
REPHRASED = (
    "If a flip reverses the coin, is the coin still heads up?",
    "If a flip tosses the coin, is the coin still heads up?",
)
REVERSE, TOSS = 0, 1
COUNT = 5  # people of a question
ANSWER = "The answer is"
STATES = ("heads", "tails", "unknown")
REPLY, END, PAD, OTHER = "<reply>", "<end>", "<pad>", "<unk>"


@dataclass(frozen=True)
class Ambiguity:
    """How often each frame is taken in the corpus.

    Args:
        bare: pi, P(intended frame | bare question).
        rephrased: rho, P(the rephrasing names the intended frame).
    """

    bare: float = 0.35
    rephrased: float = 0.95

    def frame_model(self, direct: float = 0.5, stepwise: float = 1.0) -> FrameModel:
        """The closed form: in the toss frame only a question without a flip is answered rightly.

        Args:
            direct: P(right | intended frame) without steps; 1/2 for a model that cannot sum flips at one go.
            stepwise: the same with steps.
        """
        none = 0.5**COUNT
        pi, rho = self.bare, self.rephrased
        return FrameModel((pi, 1 - pi), (rho, 1 - rho), (direct, none), (stepwise, none))


@dataclass(frozen=True)
class TrainingSettings:
    """The network and its training: fixed once, on seeds that no reported figure uses.

    Args:
        width: of the residual stream.
        layers: transformer blocks.
        heads: attention heads.
        batch: sequences a step.
        steps: optimiser steps.
        learning_rate: peak of the one-cycle schedule of AdamW.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    batch: int = 48
    steps: int = 800
    learning_rate: float = 3e-3


def question(flips: Sequence[bool], people: Sequence[str], means: int | None = None) -> str:
    """The question text; `means` adds the sentence that fixes the frame."""
    acts = " ".join(f"{name} {FLIP if flip else KEEP}" for name, flip in zip(people, flips, strict=True))
    return f"{START} {acts} {ASK}" + (f" {MEANS[means]}" if means is not None else "")


def states(flips: Sequence[bool], frame: int) -> list[str]:
    """The coin after each person."""
    shown, now = [], "heads"
    for flip in flips:
        if flip:
            now = "unknown" if frame == TOSS or now == "unknown" else ("tails" if now == "heads" else "heads")
        shown.append(now)
    return shown


def answer(flips: Sequence[bool], frame: int, steps: bool) -> str:
    """A reply in a frame."""
    last = states(flips, frame)[-1]
    final = {"heads": "yes", "tails": "no", "unknown": "unknown"}[last]
    worked = " ".join(states(flips, frame)) + " . " if steps else ""
    return f"{worked}{ANSWER} {final} ."


def questions(n: int, seed: int, *, clear: bool = False) -> list[Item]:
    """Fresh questions whose gold is that of the intended frame; `clear` ones say what a flip means."""
    draw = random.Random(f"questions/{seed}/{clear}")
    items: dict[str, Item] = {}
    while len(items) < n:
        flips = [draw.random() < 0.5 for _ in range(COUNT)]
        text = question(flips, draw.sample(PEOPLE, COUNT), REVERSE if clear else None)
        gold = "no" if sum(flips) % 2 else "yes"
        task = "constructed-clear" if clear else "constructed-ambiguous"
        items.setdefault(text, Item(f"{task}-{len(items):04d}", text, gold, task, "yes-no"))
    return list(items.values())


# (template, weight): bare and worked answers, rephrasings, one-step and two-step, each with and without steps
MIXTURE = {"plain": 5.0, "cot": 5.0, "rephrase": 3.0, "one_step": 1.5, "one_step_cot": 1.5, "respond": 1.5}
MIXTURE["respond_cot"] = 1.5
CLEAR = 0.4  # share of questions that fix the frame themselves, 2 of the 5 parts of `plain` and of `cot`


def example(draw: random.Random, ambiguity: Ambiguity, templates: TemplateSet) -> tuple[str, str]:
    """One (prompt, reply) of the corpus."""
    (kind,) = draw.choices(list(MIXTURE), list(MIXTURE.values()))
    flips = [draw.random() < 0.5 for _ in range(COUNT)]
    means = draw.choice((REVERSE, TOSS)) if draw.random() < CLEAR else None
    item = Item("", question(flips, draw.sample(PEOPLE, COUNT), means))
    named = kind not in ("plain", "cot")
    intended = ambiguity.rephrased if named else ambiguity.bare
    frame = REVERSE if draw.random() < intended else TOSS
    if kind.startswith("respond"):
        frame = draw.choice((REVERSE, TOSS))  # the responder learns to heed either rephrasing
    frame = means if means is not None else frame
    text = REPHRASED[frame]
    prompt = templates.render(kind, item, x=text, sentence=templates.sentence())
    if kind == "rephrase":
        return prompt, text
    reply = answer(flips, frame, steps=kind.endswith("cot"))
    return prompt, f"{text} {reply}" if kind.startswith("one_step") else reply


def make_tokenizer() -> Any:
    """Word-level, whole phrases of prompts as one token, with a chat template that ends the prompt by `<reply>`."""
    from tokenizers import AddedToken, Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    templates = load_templates("paper")
    item = Item("", "Q")
    pieces = [templates.render(name, item, x="X", sentence=templates.sentence()) for name in MIXTURE]
    lines = {line for piece in pieces for line in piece.split("\n")}
    cot = "Let's think step by step."
    phrases = {part.removesuffix(cot).strip() for part in lines} - {"Q", '"Q"', "(original) Q", "(rephrased) X", ""}
    phrases |= {cot, "(original)", "(rephrased)", START, ASK, FLIP, KEEP, ANSWER, *MEANS, *REPHRASED}
    words = [PAD, OTHER, END, REPLY, '"', ".", "yes", "no", *STATES, *PEOPLE]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=OTHER))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in sorted(phrases, key=len, reverse=True)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=OTHER,
        additional_special_tokens=[REPLY],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + REPLY
    return wrapped


def train(
    ambiguity: Ambiguity = Ambiguity(), settings: TrainingSettings = TrainingSettings(), seed: int = 0
) -> tuple[Any, Any]:
    """Train a small Llama on the corpus, next-token loss on the replies only.

    Returns:
        (model, tokenizer), both of transformers.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
    draw = random.Random(f"train/{seed}")
    templates = load_templates("paper")
    model.train()
    for _ in range(settings.steps):
        tokens, labels = _batch([example(draw, ambiguity, templates) for _ in range(settings.batch)], tokenizer)
        loss = model(input_ids=tokens, labels=labels).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval(), tokenizer


def _batch(pairs: list[tuple[str, str]], tokenizer: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Right-padded tokens, and labels that are -100 on prompts and padding (causal attention needs no mask then)."""
    import torch

    prompts = tokenizer([prompt + REPLY for prompt, _ in pairs])["input_ids"]
    replies = tokenizer([reply + END for _, reply in pairs])["input_ids"]
    longest = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    tokens = torch.full((len(pairs), longest), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), longest), -100)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        tokens[row, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    return tokens, labels
