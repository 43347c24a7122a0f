"""The algorithm on a user's table: recover the support, then test it on rows that nothing has seen."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import factorial, sqrt
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from scipy import stats
from shared_core.errors import InputError
from shared_core.files import jsonable
from torch import Tensor

from parity_sgd.accuracy import wilson_interval
from parity_sgd.baselines import (
    brute_force,
    gaussian_elimination,
    sgd_relu_hinge,
    sgd_same_network,
    support_by_weights,
)
from parity_sgd.checks import check_seed
from parity_sgd.codes import pack
from parity_sgd.gradient import batch_gradient, critical_batch
from parity_sgd.network import random_weights
from parity_sgd.neurons import default_width
from parity_sgd.optimizer import threshold_sign
from parity_sgd.tables import read_table

log = logging.getLogger(__name__)
Method = Literal["sign-sgd", "elimination", "brute-force", "sgd", "relu-sgd"]
NOISE_LEVELS = (0.0, 0.1, 0.2, 0.3)
SIGNIFICANT = 1e-6


@dataclass(frozen=True)
class FitSettings:
    """How sign SGD is run on a table.

    Args:
        width: neurons; max(16 * 2^k, 4^k) where None.
        epochs: passes over the training rows.
        batches: mini-batches a pass; fewer are taken where rows are few.
        learning_rate: eta.
        decay: lambda.
        noise: assumed label noise, which lowers rho; tried in turn (0, 0.1, 0.2, 0.3) where None.
    """

    width: int | None = None
    epochs: int = 15
    batches: int = 16
    learning_rate: float = 0.1
    decay: float = 1.0
    noise: float | None = None


@dataclass(frozen=True)
class SupportFit:
    """A recovered support and how sure one can be of it.

    Args:
        method: what found it.
        support: column indices, ascending; empty where the method found none.
        columns: their names.
        sign: +1 where y is the parity of the columns, -1 where it is its complement.
        agreement: share of held-out rows on which parity and label agree; 1 - label noise.
        agreement_low: lower end of its 95% Wilson interval.
        agreement_high: upper end.
        p_value: probability of an agreement this high on the held-out rows if the label did not depend on this
            parity (exact binomial; the support was chosen on other rows).
        held_out: number of these rows.
        gap: smallest score inside the support minus the largest outside, for methods that score columns.
        seconds: wall time of the method.
        note: what went wrong, or what was tried.
    """

    method: str
    support: tuple[int, ...]
    columns: tuple[str, ...]
    sign: int
    agreement: float
    agreement_low: float
    agreement_high: float
    p_value: float
    held_out: int
    gap: float | None
    seconds: float
    note: str

    @property
    def recovered(self) -> bool:
        """Whether the held-out rows confirm the support (p < 1e-6)."""
        return self.p_value < SIGNIFICANT


def split_rows(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices for training (70%), for choosing between attempts (10%) and for the final test (20%)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    first, second = round(0.7 * n), round(0.8 * n)
    return order[:first], order[first:second], order[second:]


def fit_support(
    X: Float[Tensor, "n d"],
    y: Float[Tensor, "n"],
    k: int,
    *,
    method: Method = "sign-sgd",
    settings: FitSettings | None = None,
    columns: tuple[str, ...] | None = None,
    seed: int = 0,
) -> SupportFit:
    """Find the k columns whose product is the label, up to noise and sign.

    70% of the rows train, 10% choose between attempts (assumed noise levels, starts), and 20% test the outcome.

    Raises:
        InputError: for k outside 1..d, fewer than 20 rows, or settings that cannot work.
    """
    n, d = X.shape
    settings = settings or FitSettings()
    check_fit(n, d, k, settings)
    columns = columns or tuple(f"x{j}" for j in range(d))
    training, choosing, testing = split_rows(n, seed)
    start = time.perf_counter()
    search = _SEARCHES[method]
    support, gap, note = search(X[training], y[training], X[choosing], y[choosing], k, settings, seed)
    seconds = time.perf_counter() - start
    if not support:
        return SupportFit(method, (), (), 1, 0.5, 0.0, 1.0, 1.0, len(testing), gap, seconds, note)
    fitting = torch.cat([training, choosing])
    sign = 1 if _agreement(X[fitting], y[fitting], support) >= 0.5 else -1
    right = round(_agreement(X[testing], sign * y[testing], support) * len(testing))
    low, high = wilson_interval(right, len(testing))
    p_value = float(stats.binom.sf(right - 1, len(testing), 0.5))
    names = tuple(columns[j] for j in support)
    share = right / len(testing)
    return SupportFit(method, support, names, sign, share, low, high, p_value, len(testing), gap, seconds, note)


def check_fit(n: int, d: int, k: int, settings: FitSettings) -> None:
    """Refuse what cannot work, and warn where theory asks for more rows.

    Raises:
        InputError: naming the argument.
    """
    if not 1 <= k <= d:
        raise InputError(f"k must be in 1..{d}, the number of feature columns that vary; got {k}")
    if k > 8:
        raise InputError(f"k must be at most 8 (the network has 4^k neurons), got {k}")
    if n < 20:
        raise InputError(f"at least 20 rows are needed to train and to test, got {n}")
    for name, value in (("width", settings.width), ("epochs", settings.epochs), ("batches", settings.batches)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if not settings.learning_rate > 0 or settings.decay < 0 or settings.decay * settings.learning_rate > 1:
        raise InputError(
            "learning-rate must be positive and decay * learning-rate in [0, 1], got "
            f"{settings.learning_rate} and {settings.decay}"
        )
    if settings.noise is not None and not 0 <= settings.noise < 0.5:
        raise InputError(f"noise must be in [0, 0.5), got {settings.noise}")
    needed = critical_batch(d, k, default_width(k), 0.5, settings.noise or 0.0)
    if n < needed / 20:  # measured: a ninth of that is enough with the averaging over steps
        log.warning(
            "%d rows for d = %d, k = %d: one step gets its signs right with about %.0f, and a tenth of that is "
            "about what is needed; the support may not be found", n, d, k, needed,
        )  # fmt: skip


def warn_about_columns(X: Float[Tensor, "n d"], columns: tuple[str, ...]) -> list[str]:
    """Warn of columns that are not fair coins, or equal or opposite to another: irrelevant gradients are then not zero.

    A column is named where its mean is beyond 5 standard errors and beyond 0.05; a pair where |correlation| > 0.5.
    """
    n, d = X.shape
    means = X.mean(0)
    found = []
    biased = [j for j in range(d) if abs(float(means[j])) > max(5 / sqrt(n), 0.05)]
    if biased:
        worst = max(biased, key=lambda j: abs(float(means[j])))
        found.append(
            f"{len(biased)} of {d} columns are not fair coins (most biased: {columns[worst]!r}, mean "
            f"{float(means[worst]):+.2f} in -1/+1): gradients of irrelevant columns are then not zero on average"
        )
    if d <= 2000:
        centred = X - means
        spread = centred.square().mean(0).sqrt().clamp_min(1e-12)
        correlation = (centred.T @ centred / n / spread[:, None] / spread).abs().triu(1)
        i, j = divmod(int(correlation.argmax()), d)
        if float(correlation[i, j]) > 0.5:
            found.append(f"columns {columns[i]!r} and {columns[j]!r} are correlated ({float(correlation[i, j]):.2f})")
    for message in found:
        log.warning("%s", message)
    return found


def _agreement(X: Tensor, y: Tensor, support: tuple[int, ...]) -> float:
    return float((X[:, list(support)].prod(1) == y).float().mean())


Found = tuple[tuple[int, ...], float | None, str]
Search = Callable[[Tensor, Tensor, Tensor, Tensor, int, FitSettings, int], Found]


def _sign_sgd(X: Tensor, y: Tensor, Xc: Tensor, yc: Tensor, k: int, settings: FitSettings, seed: int) -> Found:
    """Assumed noise levels and starts in turn until the choosing rows confirm; the best of all where none does."""
    levels = NOISE_LEVELS if settings.noise is None else (settings.noise,)
    attempts = [(level, seed + start) for start in range(2) for level in levels]
    best: tuple[float, tuple[int, ...], float, int] = (-1.0, (), 0.0, 0)
    for number, (level, start) in enumerate(attempts, start=1):
        W = sign_sgd_on_table(X, y, k, settings, level, start)
        support = support_by_weights(W, k)
        scores = W.abs().mean(0).sort(descending=True).values
        gap = float(scores[k - 1] - (scores[k] if k < len(scores) else 0))
        strength = abs(_agreement(Xc, yc, support) - 0.5)
        if strength > best[0]:
            best = (strength, support, gap, number)
        if stats.binom.sf(round((0.5 + strength) * len(yc)) - 1, len(yc), 0.5) < 1e-4:
            break
    return best[1], best[2], f"attempt {best[3]} of {number} (assumed noise levels and starts)"


def sign_sgd_on_table(
    X: Float[Tensor, "n d"], y: Float[Tensor, "n"], k: int, settings: FitSettings, noise: float, seed: int
) -> Float[Tensor, "m d"]:
    """The paper's step on mini-batches of given rows, reshuffled every pass; returns the trained weights.

    rho is half of the signal (1 - 2 noise) k!.
    """
    generator = torch.Generator().manual_seed(seed)
    width = settings.width or default_width(k)
    W, a = random_weights(X.shape[1], width, generator)
    codes, eta = pack(X), settings.learning_rate
    rho = 0.5 * (1 - 2 * noise) * factorial(k)
    size = -(-len(X) // settings.batches)
    for _ in range(settings.epochs):
        order = torch.randperm(len(X), generator=generator)
        for rows in order.split(size):
            G = batch_gradient(W, a, k, codes[rows], y[rows])
            W = (1 - settings.decay * eta) * W + eta * threshold_sign(G, rho).float()
    return W


def _elimination(X: Tensor, y: Tensor, Xc: Tensor, yc: Tensor, k: int, settings: FitSettings, seed: int) -> Found:
    solution = gaussian_elimination(X, y)
    if solution is None:
        return (), None, "no parity fits every row (label noise), or several do (too few rows)"
    if len(solution[0]) != k:
        return solution[0], None, f"the solution has {len(solution[0])} columns, not k = {k}"
    return solution[0], None, ""


def _brute_force(X: Tensor, y: Tensor, Xc: Tensor, yc: Tensor, k: int, settings: FitSettings, seed: int) -> Found:
    support, correlation = brute_force(X, y, k)
    return support, abs(correlation), ""


def _plain_sgd(X: Tensor, y: Tensor, Xc: Tensor, yc: Tensor, k: int, settings: FitSettings, seed: int) -> Found:
    """No sign, no dead zone; learning rates from large to small, since large ones diverge for k >= 3."""
    best: tuple[float, tuple[int, ...], float] = (-1.0, (), 0.0)
    width, steps = settings.width or default_width(k), settings.epochs * settings.batches
    for rate in (0.1, 0.01, 1e-3, 1e-4):
        W, _ = sgd_same_network(
            X, y, k, width=width, batch=min(len(X), 4096), steps=steps,
            learning_rate=rate / factorial(k), decay=1.0, seed=seed,
        )  # fmt: skip
        if bool(torch.isfinite(W).all()):
            support = support_by_weights(W, k)
            best = max(best, (abs(_agreement(Xc, yc, support) - 0.5), support, rate))
    if best[0] < 0:
        return (), None, "diverged at every learning rate"
    return best[1], None, f"learning rate {best[2] / factorial(k):g}"


def _relu_sgd(X: Tensor, y: Tensor, Xc: Tensor, yc: Tensor, k: int, settings: FitSettings, seed: int) -> Found:
    network = sgd_relu_hinge(X, y, seed=seed)
    accuracy = float(((network(Xc) > 0) == (yc > 0)).float().mean())
    return support_by_weights(network.W, k), None, f"network's own accuracy on the choosing rows {accuracy:.3f}"


_SEARCHES: dict[str, Search] = {
    "sign-sgd": _sign_sgd,
    "elimination": _elimination,
    "brute-force": _brute_force,
    "sgd": _plain_sgd,
    "relu-sgd": _relu_sgd,
}


def fit_file(
    path: str | Path,
    k: int | None,
    *,
    label: str | None = None,
    methods: Sequence[Method] = ("sign-sgd",),
    settings: FitSettings | None = None,
    seed: int = 0,
) -> list[SupportFit]:
    """Fit a csv, tsv or parquet table with one or several methods on the same split of its rows.

    Raises:
        InputError: for a file that is not a table of binary columns, or settings that cannot work.
    """
    if k is None:
        raise InputError("give --k, the number of columns in the parity")
    table = read_table(path, label)
    settings = settings or FitSettings()
    check_seed(seed)
    check_fit(len(table.X), len(table.columns), k, settings)
    warn_about_columns(table.X, table.columns)
    return [
        fit_support(table.X, table.y, k, method=method, settings=settings, columns=table.columns, seed=seed)
        for method in methods
    ]


def print_fits(fits: Sequence[SupportFit], as_json: bool) -> None:
    """Print what was recovered and how sure it is: a paragraph a method, or JSON."""
    if as_json:
        print(json.dumps(jsonable([{**asdict(fit), "recovered": fit.recovered} for fit in fits]), indent=2))
        return
    for fit in fits:
        took = f"({fit.seconds:.2f} s{'; ' + fit.note if fit.note else ''})"
        if not fit.support:
            print(f"{fit.method}: no support found {took}")
            continue
        relation = "XOR" if fit.sign > 0 else "NOT XOR"
        verdict = "confirmed" if fit.recovered else "NOT confirmed"
        print(f"{fit.method}: label = {relation}({', '.join(fit.columns)}), {verdict} {took}")
        print(
            f"  held-out rows {fit.held_out}: agreement {fit.agreement:.4f} [{fit.agreement_low:.4f}, "
            f"{fit.agreement_high:.4f}], label noise about {1 - fit.agreement:.4f}, p = {fit.p_value:.2g}"
        )
