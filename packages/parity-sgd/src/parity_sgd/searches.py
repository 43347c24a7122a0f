"""Five ways to find the columns of a parity in given rows: the paper's step on mini-batches, and the baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from parity_sgd.baselines import (
    brute_force,
    gaussian_elimination,
    sgd_relu_hinge,
    sgd_same_network,
    support_by_weights,
)
from parity_sgd.codes import pack
from parity_sgd.gradient import batch_gradient
from parity_sgd.network import random_weights
from parity_sgd.neurons import default_width, recover_support
from parity_sgd.optimizer import threshold_sign

Method = Literal["sign-sgd", "elimination", "brute-force", "sgd", "relu-sgd"]
NOISE_LEVELS = (0.0, 0.1, 0.2, 0.3)
STARTS = 2


@dataclass(frozen=True)
class FitSettings:
    """How sign SGD is run on a table.

    Args:
        width: neurons; max(16 * 2^k, 4^k) where None.
        epochs: passes over the training rows.
        batches: mini-batches a pass; fewer are taken where rows are few.
        learning_rate: eta.
        decay: lambda.
        label_noise: the one to assume, which lowers rho; tried in turn (0, 0.1, 0.2, 0.3) where None.
    """

    width: int | None = None
    epochs: int = 15
    batches: int = 16
    learning_rate: float = 0.1
    decay: float = 1.0
    label_noise: float | None = None


class SplitRows(NamedTuple):
    """Rows to train on, and rows to choose between attempts with."""

    X: Float[Tensor, "n d"]
    y: Float[Tensor, "n"]
    X_choosing: Float[Tensor, "c d"]
    y_choosing: Float[Tensor, "c"]


class Found(NamedTuple):
    """A support (empty where there is none), the gap between its scores and the others', and what happened."""

    support: tuple[int, ...]
    gap: float | None
    note: str


def agreement(X: Float[Tensor, "n d"], y: Float[Tensor, "n"], support: tuple[int, ...]) -> float:
    """Share of rows whose label is the product of the columns."""
    return float((X[:, list(support)].prod(1) == y).float().mean())


def search_sign_sgd(rows: SplitRows, k: int, settings: FitSettings, seed: int) -> Found:
    """Assumed noise levels and starts in turn until the choosing rows confirm; the best of all where none does."""
    levels = NOISE_LEVELS if settings.label_noise is None else (settings.label_noise,)
    attempts = [(level, seed + start) for start in range(STARTS) for level in levels]
    best: tuple[float, tuple[int, ...], float, int] = (-1.0, (), 0.0, 0)
    for number, (level, start) in enumerate(attempts, start=1):
        found = recover_support(sign_sgd_on_rows(rows.X, rows.y, k, settings, level, start), k)
        strength = abs(agreement(rows.X_choosing, rows.y_choosing, found.support) - 0.5)
        if strength > best[0]:
            best = (strength, found.support, found.gap, number)
        trials = len(rows.y_choosing)
        if stats.binom.sf(round((0.5 + strength) * trials) - 1, trials, 0.5) < 1e-4:
            break
    return Found(best[1], best[2], f"attempt {best[3]} of {number} (assumed noise levels and starts)")


def sign_sgd_on_rows(
    X: Float[Tensor, "n d"], y: Float[Tensor, "n"], k: int, settings: FitSettings, label_noise: float, seed: int
) -> Float[Tensor, "m d"]:
    """The paper's step on mini-batches of given rows, reshuffled every pass; returns the trained weights.

    rho is half of the signal (1 - 2 label_noise) k!.
    """
    generator = torch.Generator().manual_seed(seed)
    width = settings.width or default_width(k)
    W, a = random_weights(X.shape[1], width, generator)
    codes, eta = pack(X), settings.learning_rate
    rho = 0.5 * (1 - 2 * label_noise) * factorial(k)
    size = -(-len(X) // settings.batches)
    for _ in range(settings.epochs):
        order = torch.randperm(len(X), generator=generator)
        for batch in order.split(size):
            G = batch_gradient(W, a, k, codes[batch], y[batch])
            W = (1 - settings.decay * eta) * W + eta * threshold_sign(G, rho).float()
    return W


def search_by_elimination(rows: SplitRows, k: int, settings: FitSettings, seed: int) -> Found:
    """Gaussian elimination over GF(2)."""
    solution = gaussian_elimination(rows.X, rows.y)
    if solution is None:
        return Found((), None, "no parity fits every row (label noise), or several do (too few rows)")
    size = len(solution[0])
    return Found(solution[0], None, "" if size == k else f"the solution has {size} columns, not k = {k}")


def search_by_brute_force(rows: SplitRows, k: int, settings: FitSettings, seed: int) -> Found:
    """The strongest of all C(d, k) supports."""
    support, correlation = brute_force(rows.X, rows.y, k)
    return Found(support, None, f"correlation {correlation:.3f} on the training rows")


def search_plain_sgd(rows: SplitRows, k: int, settings: FitSettings, seed: int) -> Found:
    """No sign, no dead zone; learning rates from large to small, since large ones diverge for k >= 3."""
    best: tuple[float, tuple[int, ...], float] = (-1.0, (), 0.0)
    width, steps = settings.width or default_width(k), settings.epochs * settings.batches
    for rate in (0.1, 0.01, 1e-3, 1e-4):
        W, _ = sgd_same_network(
            rows.X, rows.y, k, width=width, batch_size=min(len(rows.X), 4096), steps=steps,
            learning_rate=rate / factorial(k), decay=1.0, seed=seed,
        )  # fmt: skip
        if bool(torch.isfinite(W).all()):
            support = support_by_weights(W, k)
            strength = abs(agreement(rows.X_choosing, rows.y_choosing, support) - 0.5)
            best = max(best, (strength, support, rate))
    if best[0] < 0:
        return Found((), None, "diverged at every learning rate")
    return Found(best[1], None, f"learning rate {best[2] / factorial(k):g}")


def search_relu_sgd(rows: SplitRows, k: int, settings: FitSettings, seed: int) -> Found:
    """A ReLU network with hinge loss, both layers trained."""
    network = sgd_relu_hinge(rows.X, rows.y, seed=seed)
    accuracy = float(((network(rows.X_choosing) > 0) == (rows.y_choosing > 0)).float().mean())
    note = f"network's own accuracy on the choosing rows {accuracy:.3f}"
    return Found(support_by_weights(network.W, k), None, note)


SEARCHES: dict[Method, Callable[[SplitRows, int, FitSettings, int], Found]] = {
    "sign-sgd": search_sign_sgd,
    "elimination": search_by_elimination,
    "brute-force": search_by_brute_force,
    "sgd": search_plain_sgd,
    "relu-sgd": search_relu_sgd,
}
