"""What a run ends in: accuracy 1, the width it takes, and the outcome read off the initial weights."""

from math import factorial

import numpy as np
import pandas as pd
from shared_core.claims import Context, Measurement

from parity_sgd import figures
from parity_sgd.accuracy import wilson_interval
from parity_sgd.neurons import default_width, smallest_width, success_probability
from parity_sgd.parity import SparseParity
from parity_sgd.reproduce.claim_set import claims, decided_by_slope, shown_seeds
from parity_sgd.settings import SignSGD
from parity_sgd.training import TrainedRun, train


def _runs(context: Context, k: int) -> list[TrainedRun]:
    d, batch = {2: (32, 4000), 3: (24, 12000), 4: (16, 40000)}[k]
    if context.scale == "paper":
        d, batch = {2: (256, 20000), 3: (64, 300000), 4: (32, 1000000)}[k]
    task = SparseParity(d, k=k, device=context.device)
    settings = SignSGD(16 * 2**k, batch, context.at(40, 60, 80), factorial(k) / 2)

    def make() -> list[TrainedRun]:
        return train(task, settings, seeds=shown_seeds(context, context.at(3, 10, 10)), log_every=4)

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
    statement="A constant times 2^k neurons, 16 * 2^k, are enough from a random start",
    where="a strict reading, ours, of the main theorem's width 2^Theta(k); the plain one is width-exponential",
    quantity="slope of log2(smallest width with 95% perfect starts) in k",
    expected="between 0.75 and 1.5, and 16 * 2^k neurons succeed in > 95% of starts",
)
def width(context: Context) -> Measurement:
    """E1b: success probability of random starts as a function of width, from the outcome formula."""
    ks = context.at((2, 3, 4), (2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 7, 8))
    draws = context.at(500, 4000, 10000)
    seeds = shown_seeds(context, 3)
    rows = [
        {"k": k, "width": factor * 2**k, "probability": success_probability(k, factor * 2**k, draws, seeds[0])}
        for k in ks
        for factor in (1, 2, 4, 8, 16)
    ]
    figure = context.save_figure("width", figures.width_figure(pd.DataFrame(rows)))
    slopes = [
        float(np.polyfit(ks, [np.log2(smallest_width(k, 0.95, draws, seed)) for k in ks], 1)[0]) for seed in seeds
    ]
    wide = {row["k"]: row["probability"] for row in rows if row["width"] == 16 * 2 ** row["k"]}
    slope, enough = float(np.mean(slopes)), min(wide.values())
    note = (
        f"{draws} starts a point, k = {ks[0]}..{ks[-1]}, 3 seeds; widths on a grid of factors 1.1; lowest success at "
        f"16 * 2^k: {enough:.3f}; slope {'within' if 0.75 <= slope <= 1.5 else 'outside'} 0.75..1.5: 2^k neurons, the "
        "size of the good network, rarely suffice from a random start, the needed width grows by more than k 2^k, "
        f"which the paper does not exclude, and 16 * 2^k suffice for k in {[k for k in ks if wide[k] > 0.95]}"
    )
    holds = 0.75 <= slope <= 1.5 and enough > 0.95
    return decided_by_slope(context, Measurement(slope, holds, (min(slopes), max(slopes)), note, (figure,)))


@claims.add(
    "width-exponential",
    statement="2^Theta(k) neurons are enough from a random start",
    where="abstract and main theorem: width 2^Theta(k)",
    quantity="lowest share of perfect starts with max(16 * 2^k, 4^k) neurons over k and seeds",
    expected=">= 0.95; the rule was chosen on k <= 6, larger k are new",
)
def width_exponential(context: Context) -> Measurement:
    """E1b: one rule of the form 2^Theta(k) at every k."""
    ks = context.at((2, 3, 4), (2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8, 9))
    draws, seeds = context.at(500, 4000, 10000), [seed + 700 for seed in shown_seeds(context, 3)]
    found = {k: [success_probability(k, default_width(k), draws, seed) for seed in seeds] for k in ks}
    low = min(min(values) for values in found.values())
    interval = (wilson_interval(round(low * draws), draws)[0], max(max(values) for values in found.values()))
    lowest = ", ".join(f"k = {k}: {min(values):.4f}" for k, values in found.items())
    note = f"{draws} starts a point and seed, 3 seeds; lowest: {lowest}; interval: Wilson's low end to the highest"
    return Measurement(low, low >= 0.95, interval, note)


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
    seeds = [seed + 500 for seed in shown_seeds(context, context.at(4, 20, 50))]
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
