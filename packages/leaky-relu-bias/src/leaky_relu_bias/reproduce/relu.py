"""E2: ReLU, on orthogonal data (a law for the stable rank) and on nearly orthogonal data (bounded, with chatter)."""

import statistics

import torch
from matplotlib.figure import Figure
from shared_core.claims import Context, Measurement

from leaky_relu_bias.descent import fit, frozen_pattern
from leaky_relu_bias.max_margin import limits, orthonormal_relu_stable_rank
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.ranks import stable_rank
from leaky_relu_bias.reproduce.registry import Runs, claims, gaussian_runs, interval, seeds
from leaky_relu_bias.synthetic import gaussian, orthogonal
from leaky_relu_bias.verdicts import RELU_BOUND, last_decade

LAW_TOLERANCE = 0.05


@claims.add(
    "E2-orthogonal",
    statement="ReLU on orthogonal points: the stable rank of a block with k points tends to 2 k / (k + 1)",
    where="abstract (bounded by a constant); the law L6 is ours",
    quantity="largest |mean block SR / law - 1| over k",
    expected=f"< {LAW_TOLERANCE:.0%}",
)
def orthogonal_law(context: Context) -> Measurement:
    """k = 5, 10, 20 points a class; every seed gives two blocks."""
    settings = context.at([(5, 100)], [(5, 200), (10, 400), (20, 400)], [(5, 1000), (10, 2000), (20, 4000)])
    steps, count = context.at(2_000, 30_000, 100_000), context.at(3, 4, 8)
    gaps, lines, ranks_of = [], [], {}
    for k, m in settings:
        X, y = orthogonal(2 * k, 784, context.seed)
        nets = [TwoLayerNet(m, 0.0, 1e-4, seed) for seed in seeds(context, count)]
        W = fit(X.to(context.device), y, nets, steps=steps).engine.isometric_weights()
        ranks = torch.cat([stable_rank(W[:, :m]), stable_rank(W[:, m:])]).tolist()
        law = orthonormal_relu_stable_rank(k)
        gaps.append(abs(statistics.mean(ranks) / law - 1))
        ranks_of[k] = ranks
        lines.append(f"k = {k}: {statistics.mean(ranks):.3f} +- {statistics.stdev(ranks):.3f} (law {law:.3f})")
    note = f"d = 784, t = {steps}, {count} seeds (two blocks each): " + "; ".join(lines)
    figure = _law_figure(ranks_of)
    return Measurement(
        max(gaps), max(gaps) < LAW_TOLERANCE, interval(gaps), note, (context.save_figure("E2-orthogonal", figure),)
    )


def _law_figure(ranks_of: dict[int, list[float]]) -> Figure:
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    grid = range(1, 2 * max(ranks_of) + 1)
    axes.plot(grid, [orthonormal_relu_stable_rank(k) for k in grid], "k--", lw=0.8, label="2 k / (k + 1)")
    for k, ranks in ranks_of.items():
        axes.plot([k] * len(ranks), ranks, "C0o", alpha=0.6, label="blocks" if k == min(ranks_of) else None)
    axes.set_xlabel("points of the block's class, k")
    axes.set_ylabel("block stable rank at the end")
    axes.legend()
    return figure


def near_runs(context: Context) -> Runs:
    """ReLU on Gaussian points, with the limits of the pattern that each run reached on its own class."""
    steps, count = context.at(5_000, 200_000, 2_000_000), context.at(3, 5, 10)
    runs = gaussian_runs(context, 0.0, 784, steps, count)

    def predicted() -> Runs:
        found = []
        for seed, (run, _) in zip(seeds(context, count), runs, strict=True):
            X, y = gaussian(10, 784, seed)
            found.append((run, limits(X, y, run.nets[0], pattern=frozen_pattern(run.engine)[0])))
        return found

    return context.memo(("relu limits", steps, count), predicted)


@claims.add(
    "E2-bounded",
    statement="ReLU: the stable rank of the weights stays bounded by a constant",
    where="abstract; the constant 2 is ours (limit of 2 k / (k + 1))",
    quantity="largest block SR over the last decade of t",
    expected=f"<= {RELU_BOUND:g}",
)
def bounded(context: Context) -> Measurement:
    """Nearly orthogonal data: bounded, while signs keep changing."""
    runs = near_runs(context)
    highest, rates = [], []
    for run, _ in runs:
        recent = last_decade(run)
        highest.append(max(float(run.column(f"sr_{block}")[recent, 0].max()) for block in ("pos", "neg")))
        rates.append(float(run.column("flips_since_last")[-1, 0]) / float(run.t[-1] - run.t[-2]))
    note = f"Gaussian n = 10, d = 784, m = 50, t = {runs[0][0].engine.t}, {len(runs)} seeds; chatter: "
    note += f"{min(rates):.2g} .. {max(rates):.2g} sign changes a step at the end"
    figure = chatter_figure(runs)
    return Measurement(
        max(highest), max(highest) <= RELU_BOUND, interval(highest), note,
        (context.save_figure("E2-chatter", figure),),
    )  # fmt: skip


def chatter_figure(runs: Runs) -> Figure:
    """Block stable ranks, and sign changes a step, over log time."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, _ in runs:
        log10_t = run.log_t[1:] / 2.302585
        for block, colour in (("pos", "C0"), ("neg", "C3")):
            left.plot(log10_t, run.column(f"sr_{block}")[1:, 0], colour, lw=0.8)
        rate = run.column("flips_since_last")[1:, 0] / (run.t[1:] - run.t[:-1])
        right.plot(log10_t, torch.where(rate > 0, rate, torch.nan), lw=0.8, marker=".", ms=3)
    left.set_ylabel("block stable rank (blue W+, red W-)")
    right.set_yscale("log")
    right.set_ylabel("sign changes a step")
    for axes in (left, right):
        axes.set_xlabel("log10 t (steps)")
    return figure


@claims.add(
    "E2-rates",
    statement="ReLU: all points have the same normalised margin in the limit and the loss decays like 1/t",
    where="abstract, introduction; the limit with chatter is ours",
    quantity="largest |t L / limit - 1|",
    expected="< 1%, and one limit of the margins",
)
def relu_rates(context: Context) -> Measurement:
    """t L against the limit in which chattering pre-activations are held at 0."""
    runs = near_runs(context)
    gaps = [abs(float(run.column("t_times_loss")[-1, 0]) / predicted.t_times_loss - 1) for run, predicted in runs]
    one_limit = all(predicted.equal_margins for _, predicted in runs)
    held = ", ".join(str(predicted.sliding) for _, predicted in runs)
    note = f"Gaussian n = 10, d = 784, m = 50, {len(runs)} seeds; pre-activations held at 0 by chatter: {held}; "
    note += "which neurons stay active on their own class is taken from the run"
    return Measurement(max(gaps), max(gaps) < 0.01 and one_limit, interval(gaps), note)
