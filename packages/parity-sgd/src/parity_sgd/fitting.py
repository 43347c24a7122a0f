"""The algorithm on a user's table: recover the support, then test it on rows that nothing has seen."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from scipy import stats
from shared_core.errors import InputError
from torch import Tensor

from parity_sgd.accuracy import wilson_interval
from parity_sgd.baselines import check_brute_force
from parity_sgd.checks import check_label_noise, check_rates, check_seed
from parity_sgd.gradient import critical_batch
from parity_sgd.neurons import default_width
from parity_sgd.searches import SEARCHES, FitSettings, Method, SplitRows, agreement
from parity_sgd.tables import read_table, warn_about_columns, warn_about_copies

log = logging.getLogger(__name__)
SIGNIFICANT = 1e-6


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
        p_value: probability of an agreement this high on the held-out rows if label and parity were independent
            (Fisher's exact test: whatever the frequencies of both; the support was chosen on other rows).
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
    rows = SplitRows(X[training], y[training], X[choosing], y[choosing])
    support, gap, note = SEARCHES[method](rows, k, settings, seed)
    seconds = time.perf_counter() - start
    if not support:
        return SupportFit(method, (), (), 1, 0.5, 0.0, 1.0, 1.0, len(testing), gap, seconds, note)
    fitting = torch.cat([training, choosing])
    sign = 1 if agreement(X[fitting], y[fitting], support) >= 0.5 else -1
    test_X, test_y = X[testing], sign * y[testing]
    share = agreement(test_X, test_y, support)
    low, high = wilson_interval(round(share * len(testing)), len(testing))
    names = tuple(columns[j] for j in support)
    p_value = independence_p_value(test_X[:, list(support)].prod(1), test_y)
    if p_value < SIGNIFICANT:
        note = "; ".join(filter(None, [note, *_needless_columns(test_X, test_y, support, columns)]))
    return SupportFit(method, support, names, sign, share, low, high, p_value, len(testing), gap, seconds, note)


def independence_p_value(parity: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> float:
    """Fisher's exact test, one-sided: P(as much agreement or more | frequencies of both, independence)."""
    both = int(((parity > 0) & (y > 0)).sum())
    return float(stats.hypergeom.sf(both - 1, len(y), int((parity > 0).sum()), int((y > 0).sum())))


def _needless_columns(X: Tensor, y: Tensor, support: tuple[int, ...], columns: tuple[str, ...]) -> list[str]:
    """Columns without which the others alone still tell the label; impossible where columns are fair coins."""
    found = []
    for j in support:
        rest = tuple(i for i in support if i != j)
        told = X[:, list(rest)].prod(1)
        # either way round: without a column that is nearly always -1 the others agree with the complement
        if rest and min(independence_p_value(told, y), independence_p_value(-told, y)) < SIGNIFICANT:
            share = agreement(X, y, rest)
            found.append(f"without {columns[j]!r} the others agree in {max(share, 1 - share):.4f}: it may not belong")
    return found


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
    check_rates(settings.learning_rate, settings.decay)
    if settings.label_noise is not None:
        check_label_noise(settings.label_noise)
    needed = critical_batch(d, k, default_width(k), 0.5, settings.label_noise or 0.0)
    if n < needed / 20:  # measured: a ninth of that is enough with the averaging over steps
        log.warning(
            "%d rows for d = %d, k = %d: one step gets its signs right with about %.0f, and a tenth of that is "
            "about what is needed; the support may not be found", n, d, k, needed,
        )  # fmt: skip


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
    if "brute-force" in methods:
        check_brute_force(len(table.columns), k)  # before other methods have run for minutes
    warn_about_columns(table.X, table.columns)
    warn_about_copies(table.X)
    return [
        fit_support(table.X, table.y, k, method=method, settings=settings, columns=table.columns, seed=seed)
        for method in methods
    ]
