"""The paper's claims, measured.

Places are named as far as public sources of the paper allow; the entries of its tables could not be read there, so no
claim quotes them. Sizes and thresholds were fixed from the statements before the reported seeds were run.
"""

from collections.abc import Sequence
from math import factorial

import numpy as np
import pandas as pd
from shared_core.claims import ClaimSet, Context, Measurement

from parity_sgd import figures
from parity_sgd.ablation import ablate
from parity_sgd.accuracy import wilson_interval
from parity_sgd.neurons import is_good, smallest_width, success_probability
from parity_sgd.parity import SparseParity
from parity_sgd.population import good_and_bad, population_path
from parity_sgd.runs import neuron_path
from parity_sgd.scaling import (
    Exponent,
    end_to_end_batch,
    fit_exponent,
    per_step_batch,
    smallest_batches,
    sufficient_batches,
)
from parity_sgd.training import SignSGD, TrainedRun, train

claims = ClaimSet("parity-sgd")
SHOWN_SEEDS = 10_000
"""First seed of what is reported; settings were chosen on seeds below."""


def _seeds(context: Context, count: int) -> list[int]:
    return [SHOWN_SEEDS + 1000 * (context.seed % 1000) + offset for offset in range(count)]


def _runs(context: Context, k: int) -> list[TrainedRun]:
    d, batch = {2: (32, 4000), 3: (24, 12000), 4: (16, 40000)}[k]
    if context.scale == "paper":
        d, batch = {2: (256, 20000), 3: (64, 300000), 4: (32, 1000000)}[k]
    task = SparseParity(d, k=k, device=context.device)
    settings = SignSGD(16 * 2**k, batch, context.at(40, 60, 80), factorial(k) / 2)

    def make() -> list[TrainedRun]:
        return train(task, settings, seeds=_seeds(context, context.at(3, 10, 10)), log_every=4)

    return context.memo(("runs", k), make)


@claims.add(
    "accuracy",
    statement="Sign SGD with fresh batches trains the two-layer network to classify 2-, 3- and 4-parities correctly",
    where="main theorem and the test accuracies of appendix A (k = 2, 3, 4; mean of 10 runs)",
    quantity="mean test accuracy over k = 2, 3, 4 and seeds (exact)",
    expected=">= 0.99 for every k",
)
def accuracy(context: Context) -> Measurement:
    """E1: accuracy of whole runs, enumerated or certified."""
    ks = context.at((2, 3), (2, 3, 4), (2, 3, 4))
    runs = {k: _runs(context, k) for k in ks}
    histories = {
        f"k = {k}, d = {run[0].W.shape[1]}": pd.concat([r.history.assign(seed=r.seed) for r in run])
        for k, run in runs.items()
    }
    figure = context.save_figure("accuracy", figures.accuracy_figure(histories))
    means = {f"k={k}": float(np.mean([run.accuracy.value for run in found])) for k, found in runs.items()}
    values = [run.accuracy.value for found in runs.values() for run in found]
    sampled = sum(run.accuracy.method == "sampled" for found in runs.values() for run in found)
    perfect = sum(value == 1 for value in values)
    note = (
        f"{len(values)} runs of {len(values) // len(ks)} seeds each, {perfect} exactly 1, {sampled} of the accuracies "
        "sampled, the rest exact; one configuration, width 16 * 2^k, rho = k!/2, eta = 0.1, lambda = 1; interval: "
        "lowest and highest run"
    )
    return Measurement(means, min(means.values()) >= 0.99, (min(values), max(values)), note, (figure,))


@claims.add(
    "width",
    statement="2^Theta(k) neurons are enough (and a random start needs no more)",
    where="main theorem: width m = 2^Theta(k)",
    quantity="slope of log2(smallest width with 95% perfect starts) in k",
    expected="between 0.75 and 1.5, and 16 * 2^k neurons succeed in > 95% of starts",
)
def width(context: Context) -> Measurement:
    """E1b: success probability of random starts as a function of width, from the outcome formula."""
    ks = context.at((2, 3, 4), (2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 7, 8))
    draws = context.at(500, 4000, 10000)
    seeds = _seeds(context, 3)
    rows = [
        {"k": k, "width": factor * 2**k, "probability": success_probability(k, factor * 2**k, draws, seeds[0])}
        for k in ks
        for factor in (1, 2, 4, 8, 16)
    ]
    figure = context.save_figure("width", figures.width_figure(pd.DataFrame(rows)))
    slopes = [
        float(np.polyfit(ks, [np.log2(smallest_width(k, 0.95, draws, seed)) for k in ks], 1)[0]) for seed in seeds
    ]
    enough = min(row["probability"] for row in rows if row["width"] == 16 * 2 ** row["k"])
    slope = float(np.mean(slopes))
    note = (
        f"{draws} starts a point, 3 seeds; widths on a grid of factors 1.1; lowest success at 16 * 2^k: {enough:.3f}; "
        "2^k neurons, the size of the good network, rarely suffice from a random start, and 16 * 2^k do up to k = 4 "
        "only: the needed width grows by more than k 2^k. That is still 2^Theta(k); the threshold here was stricter"
    )
    holds = 0.75 <= slope <= 1.5 and enough > 0.95
    return Measurement(slope, holds, (min(slopes), max(slopes)), note, (figure,))


@claims.add(
    "prediction",
    statement="Only good neurons of the start survive: the outcome is that of the good network approximated by them",
    where="proof idea: good and bad neurons",
    quantity="largest distance of the trained accuracy from that read off the initial weights (ties either way)",
    expected="<= 0.01, with starts of both kinds (perfect and not)",
)
def prediction(context: Context) -> Measurement:
    """A2: k = 4 with 64 neurons, where half of the starts are unlucky."""
    task = SparseParity(12, k=4, device=context.device)
    settings = SignSGD(64, context.at(20000, 40000, 200000), 60, 12.0)
    seeds = [seed + 500 for seed in _seeds(context, context.at(4, 20, 50))]
    runs = train(task, settings, seeds=seeds)
    gaps = [prediction_gap(run) for run in runs]
    lucky = sum(run.predicted.accuracy == 1 for run in runs)
    ties = sum(run.predicted.ties > 0 for run in runs)
    note = (
        f"{len(runs)} seeds, {lucky} starts predicted perfect, {ties} with ties; one configuration (d = 12, k = 4, "
        "m = 64); a first version predicted ties as errors and missed 1 of 20 runs by 1/16: ties can go either way, "
        "are now predicted as an interval, and are measured here on other seeds"
    )
    both = 0 < lucky < len(runs)
    holds = None if not both else max(gaps) <= 0.01
    if not both:
        note += "; starts of one kind only"
    return Measurement(max(gaps), holds, (min(gaps), max(gaps)), note)


def prediction_gap(run: TrainedRun) -> float:
    """How far the trained accuracy lies outside [accuracy, accuracy + ties] of the prediction."""
    low, value = run.predicted.accuracy, run.accuracy.value
    return max(low - value, value - low - run.predicted.ties, 0.0)


def _per_step(context: Context) -> dict[int, tuple[pd.DataFrame, Exponent, int]]:
    sizes: dict[int, Sequence[int]] = context.at(
        {2: (32, 64, 128), 3: (16, 32, 64)},
        {2: (64, 128, 256, 512), 3: (24, 48, 96), 4: (16, 24, 32, 48)},
        {2: (128, 512, 2048, 8192), 3: (48, 96, 192, 384), 4: (32, 48, 64, 96)},
    )

    def make() -> dict[int, tuple[pd.DataFrame, Exponent, int]]:
        found = {}
        for k, ds in sizes.items():
            table = per_step_batch(k, ds, seeds=context.at(4, 8, 16), seed=_seeds(context, 1)[0])
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
    return Measurement(slopes, holds, (exponent.corrected_low, exponent.corrected_high), note, (figure,))


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
        "laptop": {2: (32, (16, 32, 64, 128)), 3: (128, (12, 16, 24, 32, 48)), 4: (256, (10, 12, 16))},
        "paper": {2: (32, (16, 64, 256, 512)), 3: (128, (12, 24, 48, 96)), 4: (256, (10, 12, 16, 24, 32))},
    }
    return sizes[scale]


def _end_to_end(context: Context) -> dict[int, tuple[pd.DataFrame, pd.DataFrame, Exponent, int]]:
    def make() -> dict[int, tuple[pd.DataFrame, pd.DataFrame, Exponent, int]]:
        found = {}
        for k, (m, ds) in end_to_end_sizes(context.scale).items():
            cells = end_to_end_batch(k, ds, width=m, seeds=8, seed=_seeds(context, 1)[0])
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
    return Measurement(slopes, holds, (exponent.low, exponent.high), note, (figure,))


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
    slopes = {
        f"k={k}": float(np.polyfit(np.log(table["d"]), np.log(table["queries"]), 1)[0]) for k, table in tables.items()
    }
    exponents = {k: exponent for k, (_, _, exponent, _) in found.items()}
    worst = max(exponents, key=lambda k: exponents[k].slope - k)
    interval = (exponents[worst].low + 1, exponents[worst].high + 1)
    ratios = {k: (table["queries"] / table["sq_bound"]).round(1).tolist() for k, table in tables.items()}
    note = f"6 of 8 seeds at accuracy 0.99; queries / d^k by size: {ratios}; interval: slope over seeds, k = {worst}"
    holds = all(slope <= k + 0.5 for k, slope in zip(tables, slopes.values(), strict=True))
    return Measurement(slopes, holds, interval, note, (figure,))


@claims.add(
    "mechanism",
    statement="Good features stay at +-1, bad features and noise coordinates decay to 0 on the population path",
    where="figures of one good and one bad neuron for k = 2, 3, 4",
    quantity="largest | |w| - closed form | over steps, all neurons and coordinates",
    expected="<= 0.1, the size of one step",
)
def mechanism(context: Context) -> Measurement:
    """E4: every weight of whole runs beside the closed form."""
    worst, panels = [], []
    for k in context.at((2,), (2, 3, 4), (2, 3, 4)):
        d, batch = {2: (16, 8000), 3: (16, 40000), 4: (12, 200000)}[k]
        task = SparseParity(d, k=k, device=context.device)
        settings = SignSGD(16 * 2**k, batch, 60, factorial(k) / 2)
        theory = population_path(k, steps=settings.steps, rho=settings.rho)
        support = list(range(k))
        for seed in _seeds(context, context.at(1, 3, 5)):
            path, trainer = neuron_path(task, settings, seed)
            good = is_good(trainer.W0, trainer.a, support).cpu()
            expected = theory.noise[:, None, None].expand(path.shape).clone()
            expected[:, good, :k] = theory.good_feature[:, None, None]
            expected[:, ~good, :k] = theory.bad_feature[:, None, None]
            worst.append((path.abs() - expected).abs().max().item())
        panels.append((f"k = {k}, d = {d}", path, good_and_bad(good), support, theory))
    figure = context.save_figure("mechanism", figures.trajectory_figure(panels))
    note = (
        f"{len(worst)} runs of 60 steps; interval: smallest and largest run; float32 weights; one batch size a k "
        "(about 3 times that of a step with all signs right half of the time, or more)"
    )
    one_step = 0.1 + 1e-6  # float32 weights
    return Measurement(max(worst), max(worst) <= one_step, (min(worst), max(worst)), note, (figure,))


@claims.add(
    "dead-zone",
    statement="The threshold inside the sign is needed: without it noise coordinates never die",
    where="algorithm: modified sign with a dead zone; figure of the sign function with rho = 0.5",
    quantity="mean accuracy with rho = k!/2 minus mean accuracy with rho = 0",
    expected=">= 0.1",
)
def dead_zone(context: Context) -> Measurement:
    """E5: dead zone on and off, and the whole table of ablations."""
    task = SparseParity(32, k=3, device=context.device)
    settings = SignSGD(96, context.at(12000, 16000, 16000), 60, 3.0)
    studies = context.at(("dead-zone",), ("dead-zone", "threshold", "width"), ("dead-zone", "threshold", "width"))
    table = ablate(task, settings, studies, _seeds(context, context.at(3, 5, 10)))
    figure = context.save_figure("dead-zone", figures.ablation_figure(table))
    study = table[table["study"] == "dead-zone"]
    on, off = (group["accuracy"].to_numpy() for _, group in study.groupby("variant", sort=False))
    means = table.groupby("variant", sort=False)["accuracy"].mean().round(3).to_dict()
    note = (
        f"{len(on)} seeds, d = 32, k = 3, m = 96, B = {settings.batch}, T = 60; interval: lowest and highest paired "
        f"difference; means: {means}"
    )
    gaps = on - off
    return Measurement(
        float(gaps.mean()), bool(gaps.mean() >= 0.1), (float(gaps.min()), float(gaps.max())), note, (figure,)
    )


@claims.add(
    "rotation",
    statement="Sign descent is not rotation invariant: in an unknown rotated basis the method fails",
    where="limitation raised in the paper's public reviews",
    quantity="mean accuracy on XOR in a random rotated basis (standard basis: 1)",
    expected="<= 0.6, with >= 0.99 in the standard basis",
)
def rotation(context: Context) -> Measurement:
    """E5: rotated XOR."""
    task = SparseParity(32, k=2, device=context.device)
    settings = SignSGD(64, 4000, 60, 1.0)
    table = ablate(task, settings, ("basis",), _seeds(context, context.at(3, 5, 10)))
    standard, rotated = (group["accuracy"].to_numpy() for _, group in table.groupby("variant", sort=False))
    note = f"{len(rotated)} seeds and rotations, standard basis: {standard.mean():.3f}; 8192 test points a run"
    low, high = wilson_interval(round(rotated.sum() * 8192), len(rotated) * 8192)
    interval = (min(low, float(rotated.min())), max(high, float(rotated.max())))
    return Measurement(float(rotated.mean()), bool(rotated.mean() <= 0.6 and standard.mean() >= 0.99), interval, note)


@claims.add(
    "plain-sgd",
    statement="The sign lets a constant learning rate work from a +-1 start: plain SGD with it diverges for k >= 3",
    where="our comparison; the paper's algorithm against plain SGD on the same network",
    quantity="share of plain SGD runs at eta = 0.1 that diverge (k = 3)",
    expected="1",
)
def plain_sgd(context: Context) -> Measurement:
    """E5: plain SGD at the same and at smaller learning rates."""
    task = SparseParity(16, k=3, device=context.device)
    settings = SignSGD(96, 6000, 60, 3.0)
    table = ablate(task, settings, ("sign",), _seeds(context, context.at(3, 5, 10)))
    same = table[table["variant"] == "SGD, learning rate 0.1"]
    share = float((same["note"] == "diverged").mean())
    means = table.groupby("variant", sort=False)["accuracy"].mean().round(3).to_dict()
    low, high = wilson_interval(round(share * len(same)), len(same))
    note = f"{len(same)} seeds; mean accuracies, a diverged run counted 0.5: {means}; interval: Wilson 95%"
    return Measurement(share, share == 1, (low, high), note)
