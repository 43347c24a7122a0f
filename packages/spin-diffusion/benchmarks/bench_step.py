"""Seconds an update of self-play beside a loop in the manner of diffusers' Diffusion-DPO script.

`step`: the opponent's errors are cached as latents and embeddings are (ref_mode table). `iteration`: the pass that
writes them is counted; each of them serves one visit, so a first training on given samples pays it. The rest of an
iteration is in both: adapter, optimiser, metrics, merging. Losses are compared on the same items, noise and adapter.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import peer
from common import PAIRS, Inputs, fresh, inputs, settings
from shared_core.benchmark import Comparison, compare, seconds
from shared_core.logging import MetricsLog
from spin_diffusion.batches import Source
from spin_diffusion.config import SPINConfig
from spin_diffusion.lora import add_lora
from spin_diffusion.noise import counter_seed, draw
from spin_diffusion.processes import make_accelerator
from spin_diffusion.references import TableReference, reference_table
from spin_diffusion.schedules import schedule_of, step_weights
from spin_diffusion.self_play import SPINTrainer
from torch import Tensor

UPDATES, CHECKED, REPEATS, REFERENCE_PAIRS = 100, 20, 5, 32
NAME = f"loop of diffusers' Diffusion-DPO script (re-implemented on diffusers {version('diffusers')})"


def config(updates: int) -> SPINConfig:
    """The reference's errors as a table, written in larger passes."""
    base = settings(updates)
    return replace(
        base, ref_mode="table", optimization=replace(base.optimization, reference_batch_size=REFERENCE_PAIRS)
    )


def ours(given: Inputs, updates: int, out: Path | None = None) -> None:
    """One iteration on given samples of the opponent."""
    trainer = SPINTrainer(
        fresh(given), given.parts.scheduler, given.data, config(updates), out, accelerator=make_accelerator()
    )
    trainer.train_iteration(0, given.opponents)


def table(given: Inputs, updates: int) -> TableReference:
    """The opponent's errors at every visit of these updates."""
    used, accelerator = config(updates), make_accelerator()
    errors = reference_table(fresh(given), source_of(given, used), used.optimization, updates, accelerator)
    return TableReference(errors, 2)


def source_of(given: Inputs, used: SPINConfig) -> Source:
    """Order and noise of the iteration."""
    schedule = schedule_of(given.parts.scheduler)
    return Source(given.data, schedule, step_weights(schedule), used.seed, 0, opponents=given.opponents)


def our_losses(given: Inputs) -> list[float]:
    """Of every update."""
    with TemporaryDirectory() as folder:
        ours(given, CHECKED, Path(folder))
        return [row["loss"] for row in MetricsLog(Path(folder, "iter_0", "metrics.jsonl")).read()]


def their_losses(given: Inputs) -> list[float]:
    """Of the peer's loop, fed with our order, noise and initial adapter."""
    used = config(CHECKED)
    source = source_of(given, used)
    items, visits = source.visits(range(CHECKED * PAIRS))

    def noising(number: int, _: Tensor) -> tuple[Tensor, Tensor]:
        rows = slice(number * PAIRS, (number + 1) * PAIRS)
        drawn = draw(used.seed, 0, items[rows], visits[rows], source.schedule.num_steps, given.data.shape)
        return drawn.steps.repeat(2), drawn.noise.repeat(2, 1, 1, 1)

    net = fresh(given)
    add_lora(net, used.lora, counter_seed("adapter", used.seed, 0))
    adapter = {name: value for name, value in net.state_dict().items() if "lora_" in name}
    return peer.train(given, peer.cached(given), CHECKED, order=items, noising=noising, adapter=adapter)


def run() -> list[Comparison]:
    given = inputs()
    gap = max(abs(a - b) for a, b in zip(our_losses(given), their_losses(given), strict=True))
    times = measure(given)
    share = median(b / a - 1 for a, b in zip(times["cached"], times["shipped"], strict=True))
    shipped = f"VAE and text encoder in the peer's loop, as it ships ({share:.0%} on top of the rest)"
    cases = {
        ("step", "cached"): "cached inputs for both, ours with the opponent's errors cached too",
        ("iteration", "cached"): "cached inputs for both, ours with the pass that writes the opponent's errors",
        ("step", "shipped"): f"{shipped}, ours with the opponent's errors cached",
        ("iteration", "shipped"): f"{shipped}, ours with the pass that writes the opponent's errors",
    }
    return [
        compare(
            id if source == "cached" else f"{id}-encode",
            f"seconds an update of {PAIRS} pairs, LoRA, {question}; largest gap of {CHECKED} losses {gap:.1e}",
            NAME,
            times[id],
            times[source],
            same_result=gap <= 1e-6,
        )
        for (id, source), question in cases.items()
    ]


def measure(given: Inputs) -> dict[str, list[float]]:
    """Seconds an update of each loop, one after the other in every round; the first round is not counted."""
    written, cached, shipped = table(given, UPDATES), peer.cached(given), peer.as_shipped(given)

    def step() -> None:
        with patch("spin_diffusion.self_play.make_reference", return_value=written):
            ours(given, UPDATES)

    loops: dict[str, Callable[[], object]] = {
        "step": step,
        "cached": lambda: peer.train(given, cached, UPDATES),
        "iteration": lambda: ours(given, UPDATES),
        "shipped": lambda: peer.train(given, shipped, UPDATES),
    }
    rounds = [{name: seconds(loop) / UPDATES for name, loop in loops.items()} for _ in range(REPEATS + 1)]
    return {name: [each[name] for each in rounds[1:]] for name in loops}


if __name__ == "__main__":
    for row in run():
        print(row)
