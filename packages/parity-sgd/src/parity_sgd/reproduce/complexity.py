"""How many samples and queries it takes: one step, whole runs, the statistical-query bound."""

from collections.abc import Sequence

import pandas as pd
from shared_core.claims import Context, Measurement

from parity_sgd import figures
from parity_sgd.reproduce.claim_set import claims, decided_by_slope, shown_seeds
from parity_sgd.scaling import (
    Exponent,
    end_to_end_batch,
    fit_exponent,
    loglog_slope,
    per_step_batch,
    smallest_batches,
    sufficient_batches,
)


def _per_step(context: Context) -> dict[int, tuple[pd.DataFrame, Exponent, int]]:
    sizes: dict[int, Sequence[int]] = context.at(
        {2: (32, 64, 128), 3: (16, 32, 64)},
        {2: (64, 128, 256, 512), 3: (24, 48, 96), 4: (16, 24, 32, 48)},
        {2: (128, 512, 2048, 8192), 3: (48, 96, 192, 384), 4: (32, 48, 64, 96)},
    )

    def make() -> dict[int, tuple[pd.DataFrame, Exponent, int]]:
        found = {}
        for k, ds in sizes.items():
            table = per_step_batch(k, ds, runs=context.at(4, 8, 16), seed=shown_seeds(context, 1)[0])
            found[k] = (table, fit_exponent(table, k, 8), 8)
        return found

    return context.memo("per-step", make)


@claims.add(
    "batch-exponent",
    statement="A batch of order d^(k-1), up to logarithms, makes every sign of a step right",
    where="main theorem: batch O~(d^(k-1))",
    quantity="slope in log d of (smallest right batch / ln(m d)), per k",
    expected="within 0.5 of k - 1 for every k",
)
def batch_exponent(context: Context) -> Measurement:
    """E2: the smallest batch whose thresholded gradient is right everywhere."""
    found = _per_step(context)
    label = "samples until every sign of a step is right"
    figure = context.save_figure("batch-exponent", figures.scaling_figure(found, label, formula=True))
    slopes = {f"k={k}": exponent.corrected for k, (_, exponent, _) in found.items()}
    errors = {k: exponent.corrected - (k - 1) for k, (_, exponent, _) in found.items()}
    worst = max(errors, key=lambda k: abs(errors[k]))
    exponent = found[worst][1]
    parts = [
        f"k = {k}: raw {e.slope:.2f}, corrected {e.corrected:.2f} [{e.corrected_low:.2f}, {e.corrected_high:.2f}], "
        f"exact formula {e.formula:.2f}"
        for k, (_, e, _) in found.items()
    ]
    seeds = found[worst][0]["seed"].nunique()
    note = f"{seeds} seeds a size; {'; '.join(parts)}; interval: that of k = {worst}, the farthest"
    holds = max(map(abs, errors.values())) <= 0.5
    interval = (exponent.corrected_low, exponent.corrected_high)
    return decided_by_slope(context, Measurement(slopes, holds, interval, note, (figure,)))


@claims.add(
    "batch-formula",
    statement="The second moment V(d, k) ~ k^2 (2k-3)!! d^(k-1) of the gradient at the start sets that batch",
    where="our derivation from the paper's definitions",
    quantity="median of measured batch / [V 2 ln(md) / (k!/2)^2], per k",
    expected="between 0.5 and 1.2 for every k",
)
def batch_formula(context: Context) -> Measurement:
    """E2: the ratio to the exact formula, with no fitted constant."""
    found = _per_step(context)
    ratios = {f"k={k}": float(table["ratio"].median()) for k, (table, _, _) in found.items()}
    every = pd.concat([table["ratio"] for table, _, _ in found.values()])
    quantiles = (float(every.quantile(0.05)), float(every.quantile(0.95)))
    note = f"{len(every)} measurements; interval: 5% and 95% quantile over sizes, seeds and k; no constant is fitted"
    return Measurement(ratios, all(0.5 <= r <= 1.2 for r in ratios.values()), quantiles, note)


def end_to_end_sizes(scale: str) -> dict[int, tuple[int, Sequence[int]]]:
    """Width and dimensions of the end-to-end sweep, per k."""
    sizes: dict[str, dict[int, tuple[int, Sequence[int]]]] = {
        "smoke": {2: (32, (12, 16, 24))},
        "laptop": {
            2: (32, (16, 32, 64, 128, 256, 512)),
            3: (128, (12, 16, 24, 32, 48, 64, 96)),
            4: (256, (10, 12, 16)),
        },
        "paper": {2: (32, (16, 64, 256, 512)), 3: (128, (12, 24, 48, 96)), 4: (256, (10, 12, 16, 24, 32))},
    }
    return sizes[scale]


def _end_to_end(context: Context) -> dict[int, tuple[pd.DataFrame, pd.DataFrame, Exponent, int]]:
    def make() -> dict[int, tuple[pd.DataFrame, pd.DataFrame, Exponent, int]]:
        found = {}
        for k, (m, ds) in end_to_end_sizes(context.scale).items():
            cells = end_to_end_batch(k, ds, width=m, runs=8, seed=shown_seeds(context, 1)[0])
            seeds = smallest_batches(cells)
            found[k] = (seeds, sufficient_batches(cells), fit_exponent(seeds, k, m), m)
        return found

    return context.memo("end-to-end", make)


@claims.add(
    "sample-exponent",
    statement="Whole runs need O~(d^(k-1)) samples",
    where="abstract and main theorem",
    quantity="slope of log(samples T B of a successful run) in log d, per k",
    expected="at most k - 1 + 0.5 for every k",
)
def sample_exponent(context: Context) -> Measurement:
    """E3: smallest batch with which whole runs reach accuracy 0.99, in samples."""
    found = _end_to_end(context)
    tables = {k: (seeds, exponent, m) for k, (seeds, _, exponent, m) in found.items()}
    label = "samples T B of the first successful run"
    figure = context.save_figure("sample-exponent", figures.scaling_figure(tables, label, formula=False))
    slopes = {f"k={k}": exponent.slope for k, (_, exponent, _) in tables.items()}
    worst = max(tables, key=lambda k: tables[k][1].slope - k)
    exponent = tables[worst][1]
    parts = [f"k = {k}: {e.slope:.2f} [{e.low:.2f}, {e.high:.2f}]" for k, (_, e, _) in tables.items()]
    note = (
        f"8 seeds a size, batches on a grid of 1.2, eta = 0.1, T = 1.5 ln(d) / eta; {'; '.join(parts)}; interval: that "
        f"of k = {worst}; an upper bound, and decay averages about 1/eta batches, so that small sizes need less"
    )
    holds = all(e.slope <= k - 1 + 0.5 for k, (_, e, _) in tables.items())
    return decided_by_slope(context, Measurement(slopes, holds, (exponent.low, exponent.high), note, (figure,)))


@claims.add(
    "queries",
    statement="With d scalar queries a sample, the run uses O~(d^k) queries, matching the SQ lower bound Omega(d^k)",
    where="abstract: matches the statistical-query lower bound",
    quantity="slope of log(queries d T B of the sufficient batch) in log d, per k",
    expected="at most k + 0.5 for every k",
)
def queries(context: Context) -> Measurement:
    """E6: scalar queries against d^k."""
    found = _end_to_end(context)
    tables = {k: table for k, (_, table, _, _) in found.items()}
    figure = context.save_figure("queries", figures.queries_figure(tables))
    fits = {k: loglog_slope(table["d"], table["queries"]) for k, table in tables.items()}
    worst = max(fits, key=lambda k: fits[k][0] - k)
    ratios = {k: (table["queries"] / table["sq_bound"]).round(1).tolist() for k, table in tables.items()}
    parts = [f"k = {k}: {slope:.2f} [{low:.2f}, {high:.2f}]" for k, (slope, low, high) in fits.items()]
    note = (
        f"6 of 8 seeds at accuracy 0.99, one batch a size; {'; '.join(parts)}; queries / d^k by size: {ratios}; "
        f"interval: regression over sizes, k = {worst}"
    )
    slopes = {f"k={k}": slope for k, (slope, _, _) in fits.items()}
    holds = all(slope <= k + 0.5 for k, (slope, _, _) in fits.items())
    return decided_by_slope(context, Measurement(slopes, holds, fits[worst][1:], note, (figure,)))
