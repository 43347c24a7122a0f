"""Seconds an update of self-play beside a loop in the manner of diffusers' Diffusion-DPO script.

Ours is one call of the trainer, everything included: the pass that writes the reference's errors, adapter, optimiser,
metrics, merging. Losses are compared on the same items, noise and initial adapter.
"""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import peer
from common import PAIRS, Inputs, fresh, inputs, settings
from shared_core.benchmark import Comparison, compare, seconds
from shared_core.logging import MetricsLog
from spin_diffusion.batches import Source
from spin_diffusion.config import SPINConfig
from spin_diffusion.lora import add_lora
from spin_diffusion.noise import counter_seed, draw
from spin_diffusion.processes import make_accelerator
from spin_diffusion.schedules import schedule_of, step_weights
from spin_diffusion.self_play import SPINTrainer
from torch import Tensor

UPDATES, CHECKED, REPEATS, REFERENCE_PAIRS = 150, 20, 5, 32
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


def our_losses(given: Inputs) -> list[float]:
    """Of every update."""
    with TemporaryDirectory() as folder:
        ours(given, CHECKED, Path(folder))
        return [row["loss"] for row in MetricsLog(Path(folder, "iter_0", "metrics.jsonl")).read()]


def their_losses(given: Inputs) -> list[float]:
    """Of the peer's loop, fed with our order, noise and initial adapter."""
    used, schedule = config(CHECKED), schedule_of(given.parts.scheduler)
    source = Source(given.data, schedule, step_weights(schedule), used.seed, 0, opponents=given.opponents)
    items, visits = source.visits(range(CHECKED * PAIRS))

    def noising(number: int, _: Tensor) -> tuple[Tensor, Tensor]:
        rows = slice(number * PAIRS, (number + 1) * PAIRS)
        drawn = draw(used.seed, 0, items[rows], visits[rows], schedule.num_steps, given.data.shape)
        return drawn.steps.repeat(2), drawn.noise.repeat(2, 1, 1, 1)

    net = fresh(given)
    add_lora(net, used.lora, counter_seed("adapter", used.seed, 0))
    adapter = {name: value for name, value in net.state_dict().items() if "lora_" in name}
    return peer.train(given, peer.cached(given), CHECKED, order=items, noising=noising, adapter=adapter)


def run() -> list[Comparison]:
    given = inputs()
    pairs = list(zip(our_losses(given), their_losses(given), strict=True))
    gap = max(abs(a - b) for a, b in pairs)
    rows = []
    for id, question, source in (
        ("step", "cached inputs for both", peer.cached(given)),
        ("step-encode", "VAE and text encoder in the peer's loop, as it ships", peer.as_shipped(given)),
    ):
        mine, theirs = [], []
        for repeat in range(REPEATS + 1):
            a, b = seconds(lambda: ours(given, UPDATES)), seconds(lambda s=source: peer.train(given, s, UPDATES))  # type: ignore[misc]
            if repeat:
                mine.append(a / UPDATES)
                theirs.append(b / UPDATES)
        rows.append(
            compare(
                id,
                f"seconds an update of {PAIRS} pairs, LoRA, {question}; largest gap of {CHECKED} losses {gap:.1e}",
                NAME,
                mine,
                theirs,
                same_result=gap <= 1e-6,
            )
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
