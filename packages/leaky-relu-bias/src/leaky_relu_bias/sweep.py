"""Grids of slopes, initial scales, step sizes, ratios and seeds; the runs of one training set are one batch."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shared_core.device import describe_device
from shared_core.errors import InputError
from shared_core.files import write_text
from shared_core.logging import progress
from shared_core.run_folder import RunFolder, installed_version

from leaky_relu_bias.datasets import load
from leaky_relu_bias.descent import descend, make_engine
from leaky_relu_bias.device import device_for, moved
from leaky_relu_bias.max_margin import Limits, limits
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.options import DataOptions, Grid
from leaky_relu_bias.orthogonality import TrainingSet
from leaky_relu_bias.trajectory import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
PACKAGE = "leaky-relu-bias"
# runs that are advanced together; between two batches the sweep can be stopped and gone on with
BATCH = 32
QUANTITIES = (
    "sr_pos", "sr_neg", "sr_joint", "t_times_loss", "normalized_margin_min", "normalized_margin_max",
    "ideal_sign_fraction", "flips_since_last", "log10_loss",
)  # fmt: skip


def sweep_to_folder(
    source: str,
    data: DataOptions,
    grid: Grid,
    m: int = 50,
    steps: int = 10_000,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Train every cell of the grid and return one row a cell and seed, with the predicted limits beside the end.

    Raises:
        InputError: for a bad grid, data or folder.
    """
    grid.check(source)
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    sets = {ratio: load(source, replace(data, ratio=ratio)) for ratio in grid.ratios or [data.ratio]}
    cells = list(
        itertools.product(grid.gammas, grid.sigma0s, grid.relative_learning_rates, range(seed, seed + grid.runs))
    )
    for gamma, sigma0, _, cell_seed in cells:
        TwoLayerNet(m, gamma, sigma0, cell_seed)
    where = device_for(device, next(iter(sets.values())), m, min(BATCH, len(cells)))
    sets = {ratio: moved(points, where) for ratio, points in sets.items()}
    batches = [(ratio, cells[start : start + BATCH]) for ratio in sets for start in range(0, len(cells), BATCH)]
    settings = {"verb": "sweep", "source": source, "data": asdict(data), "grid": asdict(grid), "m": m, "steps": steps}
    settings |= {"seed": seed, "device": where.type, "data_hashes": [points.digest for points in sets.values()]}
    with RunFolder(out, package=PACKAGE, settings=settings) as folder:
        log.info("%d runs on %s, into %s", len(cells) * len(sets), describe_device(where), folder.path)
        rows: list[dict[str, Any]] = []
        for index, (ratio, batch) in enumerate(progress(batches, "sweep")):
            stored = folder.read_json(f"batches/{index}.json")
            if stored is None:
                stored = _train_batch(sets[ratio], batch, m, steps)
                folder.write_json(f"batches/{index}.json", stored)
            rows += stored
        import pandas as pd

        write_text(folder.path / "sweep.csv", pd.DataFrame(rows).to_csv(index=False))
        folder.save_figure("sweep", sweep_figure(rows))
        folder.write_json(
            "result.json",
            {"package": PACKAGE, "version": installed_version(PACKAGE), "verb": "sweep", "rows": rows},
        )
        return rows


def _train_batch(
    data: TrainingSet, cells: Sequence[tuple[float, float, float, int]], m: int, steps: int
) -> list[dict[str, Any]]:
    nets = [TwoLayerNet(m, gamma, sigma0, seed) for gamma, sigma0, _, seed in cells]
    sizes = [step * data.step_scale(m) for _, _, step, _ in cells]
    engine, _ = make_engine(data, nets, sizes)
    # the last decade is looked at apart, for the sign changes in it
    *_, end = descend(engine, [max(1, steps // 10), steps] if steps > 1 else [steps])
    predictions: dict[tuple[float, float, int], Limits] = {}
    rows = []
    for index, (net, (gamma, sigma0, step, seed)) in enumerate(zip(nets, cells, strict=True)):
        # the seed decides the limit of ReLU nets only
        key = (gamma, step, seed if gamma == 0 else -1)
        if key not in predictions:
            predictions[key] = limits(data, None, net, eta=sizes[index])
        row = {
            "ratio": data.ratio,
            "gamma": gamma,
            "sigma0": sigma0,
            "relative_learning_rate": step,
            "seed": seed,
            "t": steps,
        }
        rows.append(row | _end_row(end, index) | _prediction_row(predictions[key]))
    return rows


def _end_row(end: Snapshot, run: int) -> dict[str, float]:
    return {name: end.values[name][run].item() for name in QUANTITIES}


def _prediction_row(predicted: Limits) -> dict[str, Any]:
    return {
        "limit_t_times_loss": predicted.t_times_loss,
        "limit_margin": predicted.margin,
        "limit_sr_joint": predicted.sr_joint,
        "self_consistent": predicted.pattern_self_consistent,
        "kind": predicted.kind,
    }


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the seeds of each cell, with the smallest and largest block stable rank."""

    def cell(row: dict[str, Any]) -> tuple[float, ...]:
        return tuple(float(row[name]) for name in ("ratio", "gamma", "sigma0", "relative_learning_rate"))

    summary = []
    for key, group in itertools.groupby(sorted(rows, key=cell), key=cell):
        members = list(group)
        ranks = [float(row[name]) for row in members for name in ("sr_pos", "sr_neg")]
        line: dict[str, Any] = dict(zip(("ratio", "gamma", "sigma0", "relative_learning_rate"), key, strict=True))
        line |= {"runs": len(members), "block_sr": float(np.mean(ranks)), "lowest": min(ranks), "highest": max(ranks)}
        for name in ("sr_joint", "t_times_loss", "limit_t_times_loss", "ideal_sign_fraction", "flips_since_last"):
            line[name] = float(np.mean([float(row[name]) for row in members]))
        summary.append(line)
    return summary


def sweep_figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Block stable rank (mean over seeds) against the initial scale, one line a slope and step or ratio."""
    summary = summarise(rows)
    axis = next(
        (
            name
            for name in ("ratio", "sigma0", "relative_learning_rate", "gamma")
            if len({line[name] for line in summary}) > 1
        ),
        "sigma0",
    )
    others = [name for name in ("gamma", "sigma0", "relative_learning_rate", "ratio") if name != axis]
    varied = [name for name in others if len({line[name] for line in summary}) > 1]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    groups: dict[tuple[float, ...], list[dict[str, Any]]] = {}
    for line in summary:
        groups.setdefault(tuple(line[name] for name in varied), []).append(line)
    for key, lines in groups.items():
        label = ", ".join(f"{name} {value:g}" for name, value in zip(varied, key, strict=True))
        x = [line[axis] for line in lines]
        # the mean of equal values may lie beside them by rounding, and matplotlib refuses negative lengths
        low = [max(0.0, line["block_sr"] - line["lowest"]) for line in lines]
        high = [max(0.0, line["highest"] - line["block_sr"]) for line in lines]
        axes.errorbar(x, [line["block_sr"] for line in lines], yerr=[low, high], marker="o", capsize=2, label=label)
    if all(line[axis] > 0 and np.isfinite(line[axis]) for line in summary):
        axes.set_xscale("log")
    values = sorted({line[axis] for line in summary})
    axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(axis)
    axes.set_ylabel("block stable rank at the end (range over seeds)")
    if varied and len(groups) <= 12:
        axes.legend(fontsize=8)
    return figure
