"""Sample complexity: the batch one step needs, the batch a whole run needs, their exponents in d, and queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, factorial, log

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from shared_core.errors import InputError
from shared_core.logging import progress

from parity_sgd.accuracy import exact_accuracy
from parity_sgd.codes import unpack
from parity_sgd.gradient import batch_gradient, critical_batch
from parity_sgd.neurons import default_width
from parity_sgd.optimizer import threshold_sign
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.streams import stream_generator
from parity_sgd.threads import each_in_threads
from parity_sgd.training import Trainer, start_together

SUCCESS_ACCURACY = 0.99
SHORT_RUN = 3_000_000
"""Weights times samples below which a run, some 0.1 ms, is over before another thread has the interpreter's lock."""


@dataclass(frozen=True)
class Exponent:
    """Slope of log(samples) against log(d), with its 95% interval over seeds and sizes.

    Args:
        slope: of the samples.
        low: lower end.
        high: upper end.
        corrected: slope after division by the logarithmic factor ln(m d).
        corrected_low: lower end.
        corrected_high: upper end.
        formula: slope of the exact formula `critical_batch` over the same sizes.
    """

    slope: float
    low: float
    high: float
    corrected: float
    corrected_low: float
    corrected_high: float
    formula: float


def fit_exponent(table: pd.DataFrame, k: int, width: int, column: str = "samples") -> Exponent:
    """Least squares of log(samples) on log(d), one point a seed and size.

    Raises:
        InputError: if there are fewer than two sizes or three points.
    """
    if table["d"].nunique() < 2 or len(table) < 3:
        raise InputError("a slope needs at least two values of d and three points")
    d, samples = table["d"].to_numpy(float), table[column].to_numpy(float)
    exact = [critical_batch(int(size), k, width) for size in d]
    return Exponent(
        *loglog_slope(d, samples), *loglog_slope(d, samples / np.log(width * d)), formula=loglog_slope(d, exact)[0]
    )


def loglog_slope(d: npt.ArrayLike, values: npt.ArrayLike) -> tuple[float, float, float]:
    """Least-squares slope of log(values) in log(d) with its 95% interval (Student's t over the points given)."""
    x, y = np.log(np.asarray(d, float)), np.log(np.asarray(values, float))
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2)) * float(fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


def per_step_batch(
    k: int,
    ds: Sequence[int],
    *,
    runs: int = 8,
    seed: int = 0,
    neurons: int = 8,
    threshold: float = 0.5,
    growth: float = 1.1,
    label_noise: float = 0.0,
) -> pd.DataFrame:
    """Smallest batch, grown by `growth`, whose thresholded gradient has every sign right at a random good start.

    Right means st(G) = w on the support and 0 off it, for all `neurons` * d entries. The batch grows by adding samples.

    Returns:
        One row a size and seed: k, d, seed, samples, formula (`critical_batch`), ratio.
    """
    rows = []
    for d in progress(list(ds), f"per-step batch, k = {k}"):
        expected = critical_batch(d, k, neurons, threshold, label_noise)
        for s in range(seed, seed + runs):
            found = _first_right_batch(
                SparseParity(d, k=k, label_noise=label_noise, seed=s), neurons, threshold, growth, expected
            )
            rows.append({"k": k, "d": d, "seed": s, "samples": found, "formula": expected, "ratio": found / expected})
    return pd.DataFrame(rows)


def _first_right_batch(task: SparseParity, neurons: int, threshold: float, growth: float, expected: float) -> int:
    k, d, support = task.k, task.d, list(task.support)
    generator = stream_generator(task.seed, "weights")
    W = unpack(torch.randint(256, (neurons, (d + 7) // 8), generator=generator, dtype=torch.uint8), d).contiguous()
    a = W[:, support].prod(1)  # every neuron good
    target = torch.zeros_like(W)
    target[:, support] = W[:, support]
    rho = threshold * factorial(k) * (1 - 2 * task.label_noise)
    total, B = torch.zeros(neurons, d, dtype=torch.float64), 0
    size = max(1.0, expected / 50)
    while True:
        new = max(1, round(size) - B)
        while new:  # in pieces, so that memory does not grow with the batch
            piece = min(new, 2**18)
            total += batch_gradient(W, a, k, *task.rows(piece)[:2], total=1)
            B, new = B + piece, new - piece
        if torch.equal(threshold_sign(total / B, rho).float(), target):
            return B
        size *= growth


def steps_needed(d: int, learning_rate: float, factor: float = 1.5) -> int:
    """T = ceil(factor ln(d) / eta): then the noise of a neuron is of size d^(1/2 - factor)."""
    return max(1, ceil(factor * log(max(d, 2)) / learning_rate))


def end_to_end_batch(
    k: int,
    ds: Sequence[int],
    *,
    width: int | None = None,
    runs: int = 8,
    needed: int = 6,
    seed: int = 0,
    learning_rate: float = 0.1,
    threshold: float = 0.5,
    growth: float = 1.2,
) -> pd.DataFrame:
    """Smallest batch, on a grid of factors `growth`, with which `needed` of `runs` whole runs reach accuracy 0.99.

    T = 1.5 ln(d) / eta steps, every seed with its own start and data. The grid begins at 0.2% of `critical_batch`.

    Returns:
        One row a size, batch size and seed: k, d, width, batch_size, steps, seed, accuracy, success.
    """
    width = default_width(k) if width is None else width
    cells = []
    for d in progress(list(ds), f"end-to-end batch, k = {k}"):
        size = max(2.0, 0.002 * critical_batch(d, k, width, threshold))
        while True:
            rows = success_cell(
                k,
                d,
                round(size),
                width=width,
                seeds=range(seed, seed + runs),
                learning_rate=learning_rate,
                threshold=threshold,
            )
            cells += rows
            if sum(row["success"] for row in rows) >= needed:
                break
            size = max(size * growth, round(size) + 1)
    return pd.DataFrame(cells)


def success_cell(
    k: int, d: int, batch_size: int, *, width: int, seeds: Sequence[int], learning_rate: float, threshold: float
) -> list[dict[str, float]]:
    """One whole run a seed at one size and batch: one set-up for all, then one compiled call a run, in threads."""
    steps = steps_needed(d, learning_rate)
    settings = SignSGD(width, batch_size, steps, threshold * factorial(k), learning_rate)

    def one(trainer: Trainer) -> float:
        trainer.advance(steps)
        support = trainer.task.support
        return exact_accuracy(trainer.W, trainer.a, support, samples=4096, seed=trainer.seed, enumerate_max_d=12).value

    task = SparseParity(d, k=k)
    runs = start_together(task, settings, seeds)
    short = width * d * batch_size * steps < SHORT_RUN
    accuracies = list(map(one, runs)) if short else each_in_threads(one, runs, task.device)
    sizes = {"k": k, "d": d, "width": width, "batch_size": batch_size, "steps": steps}
    return [
        {**sizes, "seed": seed, "accuracy": accuracy, "success": accuracy >= SUCCESS_ACCURACY}
        for seed, accuracy in zip(seeds, accuracies, strict=True)
    ]


def smallest_batches(cells: pd.DataFrame) -> pd.DataFrame:
    """Per size and seed the first batch of `end_to_end_batch` that succeeded, in samples T B and scalar queries d T B.

    A seed that never did before the sweep stopped counts as the last batch.
    """
    rows = []
    for _, group in cells.groupby(["k", "d", "seed"]):
        k, d, seed = (int(group[name].iloc[0]) for name in ("k", "d", "seed"))
        won = group[group["success"]]
        batch_size = int(won["batch_size"].min()) if len(won) else int(group["batch_size"].max())
        samples = batch_size * int(group["steps"].iloc[0])
        rows.append(
            {
                "k": k,
                "d": d,
                "seed": seed,
                "batch_size": batch_size,
                "samples": samples,
                "queries": sq_queries(d, samples),
            }
        )
    return pd.DataFrame(rows)


def sufficient_batches(cells: pd.DataFrame) -> pd.DataFrame:
    """Per size the batch at which `end_to_end_batch` stopped, in samples, in queries, and the bound d^k."""
    last = cells.sort_values("batch_size").groupby(["k", "d"], as_index=False).last()
    last["samples"] = last["batch_size"] * last["steps"]
    last["queries"] = last["samples"] * last["d"]
    last["sq_bound"] = last["d"].astype(float) ** last["k"]
    return last[["k", "d", "width", "batch_size", "steps", "samples", "queries", "sq_bound"]]


def sq_queries(d: int, samples: int) -> int:
    """Scalar statistical queries that `samples` samples answer: one a coordinate of the gradient."""
    return d * samples
