"""The real experiment that fits a CPU: SmolLM2-135M on Python's documentation, SPIN beside continued SFT."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spin_llm.config import SPINConfig, preset
from spin_llm.docstrings import docstring_examples, module_of
from spin_llm.evaluation import Evaluation, compare_paired, evaluate_player
from spin_llm.models import add_lora, load_model, pad_id
from spin_llm.records import Example, split_examples
from spin_llm.rendering import Renderer, tokenize
from spin_llm.self_play import SelfPlay, make_accelerator
from spin_llm.sequence_logprobs import scoring_of
from spin_llm.supervised import fine_tune


@dataclass(frozen=True)
class StudyRow:
    """One seed: differences of held-out NLL per token, mean and standard error over prompts."""

    last_minus_start: dict[str, float]
    last_minus_sft: dict[str, float]


def docstring_split(train: int, held_out: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples for training and evaluation, no module in both."""
    examples = docstring_examples()
    random.Random(seed).shuffle(examples)
    test, rest = split_examples(examples, held_out, [module_of(example) for example in examples])
    return rest[:train], test[:held_out]


def study(
    out: Path,
    seed: int,
    device: torch.device,
    *,
    train: int = 320,
    held_out: int = 240,
    config: SPINConfig | None = None,
) -> StudyRow:
    """SFT for one epoch to make theta_0, then self-play; and from theta_0, SFT again for as many steps.

    Raises:
        InputError: if the embedded model is not installed.
    """
    config = replace(config or preset("small"), seed=seed)
    supervised = replace(config.optimization, learning_rate=[2 * config.optimization.learning_rate[0]])
    demonstrations, test = docstring_split(train, held_out, seed)
    model, tokenizer = load_model("smollm2")
    renderer = Renderer(tokenizer, config.template)
    tokens, test_tokens = tokenize(demonstrations, renderer, config.limits), tokenize(test, renderer, config.limits)
    model = add_lora(model, config.lora, seed=seed).to(device)
    accelerator = make_accelerator(config, cpu=device.type == "cpu")
    fine_tune(model, tokenizer, tokens, supervised, out / "sft", accelerator, seed=seed)
    game = SelfPlay(model, tokenizer, tokens, config, out / "spin", held_out=test_tokens, accelerator=accelerator)
    game.run()
    start = Evaluation.from_json(_read(out / "spin" / "start.json"))
    last = Evaluation.from_json(_read(out / "spin" / f"iter_{config.iterations - 1}" / "evaluation.json"))
    game._become(out / "sft" / "model")
    again = replace(config.optimization, num_train_epochs=config.iterations * config.optimization.num_train_epochs)
    fine_tune(game.model, tokenizer, tokens, again, out / "more_sft", accelerator, seed=seed + 1)
    more = evaluate_player(
        game.model,
        tokenizer,
        test_tokens,
        config.sampler,
        renderer.end_ids,
        scoring_of(game.model),
        seed=seed,
        pad_id=pad_id(tokenizer),
    )
    return StudyRow(compare_paired(last, start, "nll_per_token"), compare_paired(last, more, "nll_per_token"))


def _read(path: Path) -> dict[str, Any]:
    from shared_core.run_folder import read_json

    return read_json(path)
