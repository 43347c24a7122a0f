"""The real experiment that fits a CPU: SmolLM2-135M on Python's documentation, SPIN beside continued SFT."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spin_llm.config import SPINConfig, preset
from spin_llm.docstrings import docstring_examples, module_of
from spin_llm.evaluation import Evaluation, compare_paired, mean_and_error
from spin_llm.loading import load_model
from spin_llm.models import add_lora
from spin_llm.records import Example, split_examples
from spin_llm.rendering import Renderer, tokenize
from spin_llm.self_play import SelfPlay, make_accelerator
from spin_llm.supervised import fine_tune

MODEL = "smollm2"
START = "theta_0"


@dataclass(frozen=True)
class Study:
    """One seed.

    Args:
        players: evaluation of theta_0, of SPIN and of continued SFT after each iteration, on the same prompts.
        humans: the real responses of these prompts.
        iterations: of self-play.
    """

    players: dict[str, Evaluation]
    humans: list[str]
    iterations: int

    def gap(self, one: str, other: str, metric: str = "nll_per_token") -> dict[str, float]:
        """Mean and standard error over prompts of one player minus another."""
        return compare_paired(self.players[one], self.players[other], metric)


def spin_after(iteration: int) -> str:
    """Name of the player that self-play made."""
    return f"SPIN iteration {iteration}"


def sft_after(iteration: int) -> str:
    """Name of the player that as many steps of SFT made from the same start."""
    return f"SFT, steps of iterations 0..{iteration}" if iteration else "SFT, steps of iteration 0"


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
) -> Study:
    """SFT for one epoch makes theta_0. From there self-play; and from there again SFT, stage by stage.

    A stage of SFT sees the examples of its iteration in the same order, for as many steps under the same schedule. A
    killed study goes on: each stage and each evaluation leaves a file.

    Raises:
        InputError: if the embedded model is not installed.
    """
    config = replace(config or preset("small"), seed=seed)
    supervised = replace(config.optimization, learning_rate=[2 * config.optimization.learning_rate[0]])
    demonstrations, test = docstring_split(train, held_out, seed)
    model, tokenizer = load_model(MODEL)
    renderer = Renderer(tokenizer, config.template)
    tokens, test_tokens = tokenize(demonstrations, renderer, config.limits), tokenize(test, renderer, config.limits)
    model = add_lora(model, config.lora, MODEL, seed).to(device)
    accelerator = make_accelerator(config, cpu=device.type == "cpu")
    fine_tune(model, tokenizer, tokens, supervised, out / "sft", accelerator, seed=seed)
    game = SelfPlay(
        model, tokenizer, tokens, config, out / "spin", held_out=test_tokens, source=MODEL, accelerator=accelerator
    )
    game.run()
    found = {START: game.evaluate(out / "spin" / "start.json")}
    for number in range(config.iterations):
        found[spin_after(number)] = game.evaluate(out / "spin" / f"iter_{number}" / "evaluation.json")
    game.become(out / "sft" / "model")
    for number in range(config.iterations):
        place = out / f"more_sft_{number}"
        again = config.optimization.at(number)
        fine_tune(game.model, tokenizer, tokens, again, place, accelerator, seed=game.order_seed(number))
        found[sft_after(number)] = game.evaluate(place / "evaluation.json")
    players = {name: player for name, player in found.items() if player is not None}
    return Study(players, [example.response for example in test], config.iterations)


def ends_with_period(texts: Sequence[Sequence[str]]) -> list[float]:
    """Share of a prompt's samples that end as every sentence of the data does."""
    return [sum(text.rstrip().endswith(".") for text in group) / len(group) for group in texts]


def first_word_distance(texts: Sequence[Sequence[str]], humans: Sequence[str]) -> float:
    """Total variation between the first words of samples and of the real responses."""
    samples = Counter(_first_word(text) for group in texts for text in group)
    real = Counter(map(_first_word, humans))
    ours, theirs = samples.total(), real.total()
    return 0.5 * sum(abs(samples[word] / ours - real[word] / theirs) for word in sorted(samples.keys() | real.keys()))


def _first_word(text: str) -> str:
    return next(iter(text.split()), "").strip(".,:;").lower()


def study_table(studies: Sequence[Study]) -> list[str]:
    """Markdown: a row for each player, means over seeds; and the paired differences seed by seed."""
    count = len(studies)
    lines = [
        f"Held-out prompts, two samples each at temperature 1: mean over {count} seeds (range over seeds).",
        "",
        "| player | NLL per token | ROUGE-L | finished | ends with a period | first-word distance | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    measures: list[Callable[[Study, Evaluation], float]] = [
        lambda _, player: player.means["nll_per_token"]["mean"],
        lambda _, player: player.means["rouge_l"]["mean"],
        lambda _, player: player.means["finished"]["mean"],
        lambda _, player: mean_and_error(ends_with_period(player.texts))["mean"],
        lambda one, player: first_word_distance(player.texts, one.humans),
        lambda _, player: player.means["tokens"]["mean"],
    ]
    for name in studies[0].players:
        cells = [_over_seeds([measure(one, one.players[name]) for one in studies]) for measure in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Paired differences +- standard error over prompts, seed by seed (NLL: below 0 is better).", ""]
    lines += ["| difference | " + " | ".join(f"NLL, seed {k}" for k in range(count))]
    lines[-1] += " | " + " | ".join(f"ROUGE-L, seed {k}" for k in range(count)) + " |"
    lines += ["|---" * (2 * count + 1) + "|"]
    for one, other in _comparisons(studies[0].iterations):
        gaps = [item.gap(one, other, metric) for metric in ("nll_per_token", "rouge_l") for item in studies]
        cells = [f"{gap['mean']:+.4f} +- {gap['error']:.4f}" for gap in gaps]
        lines.append(f"| {one} - {other} | " + " | ".join(cells) + " |")
    return lines


def study_summary(studies: Mapping[int, Study]) -> dict[str, Any]:
    """The table's numbers seed by seed, with standard errors over prompts."""
    rows = []
    for seed, one in studies.items():
        players = {
            name: player.means
            | {"ends_with_period": mean_and_error(ends_with_period(player.texts))}
            | {"first_word_distance": first_word_distance(player.texts, one.humans)}
            for name, player in one.players.items()
        }
        gaps = [
            {"of": a, "minus": b} | {metric: one.gap(a, b, metric) for metric in ("nll_per_token", "rouge_l")}
            for a, b in _comparisons(one.iterations)
        ]
        rows.append({"seed": seed, "prompts": len(one.humans), "players": players, "differences": gaps})
    return {"model": MODEL, "data": "docstrings", "seeds": rows}


def _comparisons(iterations: int) -> list[tuple[str, str]]:
    spin = [START, *map(spin_after, range(iterations))]
    found = list(zip(spin[1:], spin, strict=False))  # each iteration and the one before
    found += [(spin_after(iterations - 1), START)] if iterations > 1 else []
    return found + [(spin_after(number), sft_after(number)) for number in range(iterations)]


def _over_seeds(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} .. {max(values):.3f})"
