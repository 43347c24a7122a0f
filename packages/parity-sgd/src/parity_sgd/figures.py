"""Figures of runs, sweeps and ablations; matplotlib's object interface, no global state."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from parity_sgd.gradient import critical_batch
from parity_sgd.population import PopulationPath
from parity_sgd.scaling import Exponent

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def accuracy_figure(histories: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy against samples used, one line a seed, grouped by label."""
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    for colour, (label, history) in zip(COLOURS * 9, histories.items(), strict=False):
        trained = history[history["samples"] > 0]  # a log axis has no place for the start
        for index, (_, run) in enumerate(trained.groupby("seed")):
            axes.plot(run["samples"], run["accuracy"], color=colour, lw=1, alpha=0.7, label=None if index else label)
    axes.set(xlabel="samples used", ylabel="accuracy on fresh points", title=title, ylim=(0.4, 1.03), xscale="log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(frameon=False)
    return figure


def trajectory_figure(
    panels: Sequence[tuple[str, Float[Tensor, "steps m d"], tuple[int, int], Sequence[int], PopulationPath]],
) -> Figure:
    """Weights of one good and one bad neuron over the steps beside their closed-form path, a row of panels a task.

    Args:
        panels: (title, |trained path| of every neuron, (good, bad) indices, support, closed-form path).
    """
    figure = Figure(figsize=(9, 2.6 * len(panels)))
    grid = figure.subplots(len(panels), 2, squeeze=False, sharey=True)
    for row, (title, path, neurons, support, theory) in zip(grid, panels, strict=True):
        for axes, name, neuron, feature in zip(
            row, ("good", "bad"), neurons, (theory.good_feature, theory.bad_feature), strict=True
        ):
            _trajectory(axes, path[:, neuron].abs().numpy(), list(support), feature.numpy(), theory.noise.numpy())
            axes.set_title(f"{title}: a {name} neuron", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for axes in grid[:, 0]:
        axes.set_ylabel("|weight|")
    grid[0, 1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _trajectory(axes: Axes, path: np.ndarray, support: list[int], feature: np.ndarray, noise: np.ndarray) -> None:
    off = [j for j in range(path.shape[1]) if j not in support]
    steps = np.arange(len(path))
    if off:
        axes.plot(steps, path[:, off], color="#999999", lw=0.6, alpha=0.5)
        axes.plot([], [], color="#999999", lw=0.8, label="noise coordinates, trained")
    axes.plot(steps, path[:, support], color=COLOURS[0], lw=1.6, alpha=0.8)
    axes.plot([], [], color=COLOURS[0], lw=1.6, label="features, trained")
    axes.plot(steps, feature, color=COLOURS[1], ls="--", lw=1.2, label="features, closed form")
    axes.plot(steps, noise, color="black", ls=":", lw=1.2, label="noise, closed form")
    axes.set_ylim(-0.05, 1.15)


def weights_figure(W: Float[Tensor, "m d"], good: Sequence[bool], support: Sequence[int]) -> Figure:
    """|w| of every neuron (good ones on top) and coordinate (support first)."""
    order = sorted(range(len(good)), key=lambda r: not good[r])
    columns = [*support, *[j for j in range(W.shape[1]) if j not in set(support)]]
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    image = axes.imshow(W.detach().abs().cpu()[order][:, columns], aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axes.axvline(len(support) - 0.5, color="white", lw=0.8)
    axes.axhline(sum(good) - 0.5, color="white", lw=0.8)
    axes.set(xlabel="coordinate (support left of the line)", ylabel="neuron (good above the line)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="|w|")
    return figure


def scaling_figure(tables: Mapping[int, tuple[pd.DataFrame, Exponent, int]], ylabel: str, formula: bool) -> Figure:
    """Samples against d on log axes with fitted slopes; with `formula`, `critical_batch` beside them.

    Args:
        tables: per k the table (d, samples), its exponent and the number of neurons.
        ylabel: what is counted.
        formula: whether to draw the exact formula.
    """
    figure = Figure(figsize=(6.5, 4.4))
    axes = figure.subplots()
    for colour, (k, (table, exponent, width)) in zip(COLOURS, sorted(tables.items()), strict=False):
        spread = table.groupby("d")["samples"].agg(["median", "min", "max"])
        ds = spread.index.to_numpy(float)
        errors = [spread["median"] - spread["min"], spread["max"] - spread["median"]]
        label = f"k = {k}: slope {exponent.slope:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"
        axes.errorbar(ds, spread["median"], yerr=errors, fmt="o", ms=4, capsize=2, color=colour, label=label)
        centre = np.exp(np.log(table["samples"]).mean() - exponent.slope * np.log(table["d"]).mean())
        axes.plot(ds, centre * ds**exponent.slope, color=colour, lw=1)
        if formula:
            exact = [critical_batch(int(d), k, width) for d in ds]
            axes.plot(ds, exact, color=colour, ls=":", lw=1.2)
    if formula:
        axes.plot([], [], color="black", ls=":", label="exact formula V 2 ln(md) / (k!/2)$^2$")
    axes.set(xlabel="dimension d", ylabel=ylabel, xscale="log", yscale="log")
    _ticks_at_sizes(axes, {int(d) for table, _, _ in tables.values() for d in table["d"]})
    axes.legend(frameon=False, fontsize=8)
    return figure


def _ticks_at_sizes(axes: Axes, sizes: set[int]) -> None:
    """Label sizes at least a fifth apart: log axes otherwise print overlapping 2 x 10^1, 3 x 10^1."""
    shown: list[int] = []
    for d in sorted(sizes):
        if not shown or d >= 1.2 * shown[-1]:
            shown.append(d)
    axes.set_xticks(shown, [str(d) for d in shown])
    axes.set_xticks([], minor=True)


def queries_figure(tables: Mapping[int, pd.DataFrame]) -> Figure:
    """Scalar queries d T B of the sufficient batch beside the statistical-query bound's d^k."""
    figure = Figure(figsize=(6.5, 4.2))
    axes = figure.subplots()
    for colour, (k, table) in zip(COLOURS, sorted(tables.items()), strict=False):
        axes.plot(table["d"], table["queries"], "o-", color=colour, ms=4, label=f"k = {k}: d T B measured")
        axes.plot(table["d"], table["sq_bound"], color=colour, ls=":", label=f"k = {k}: $d^{k}$")
    axes.set(xlabel="dimension d", ylabel="scalar queries", xscale="log", yscale="log")
    _ticks_at_sizes(axes, {int(d) for table in tables.values() for d in table["d"]})
    axes.legend(frameon=False, fontsize=8)
    return figure


def width_figure(table: pd.DataFrame) -> Figure:
    """Probability that a random start of width m ends perfect, against m / 2^k."""
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    for colour, (k, group) in zip(COLOURS, table.groupby("k"), strict=False):
        axes.plot(group["width"] / 2 ** int(str(k)), group["probability"], "o-", ms=4, color=colour, label=f"k = {k}")
    axes.set(xlabel="width / $2^k$", ylabel="P(perfect classifier)", xscale="log", ylim=(-0.03, 1.03))
    factors = sorted(set((table["width"] // 2 ** table["k"]).tolist()))
    axes.set_xticks(factors, [str(factor) for factor in factors])
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def ablation_figure(table: pd.DataFrame) -> Figure:
    """Accuracy of every ablation, one dot a seed."""
    figure = Figure(figsize=(7, 0.42 * table["variant"].nunique() + 1.2))
    axes = figure.subplots()
    names = list(dict.fromkeys(table["variant"]))
    for row, name in enumerate(names):
        values = table.loc[table["variant"] == name, "accuracy"]
        axes.plot(values, np.full(len(values), row), "o", color=COLOURS[0], alpha=0.6)
        axes.plot([values.mean()], [row], "|", color=COLOURS[1], ms=16, mew=2)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="accuracy (dots: seeds, bar: mean)", xlim=(0.2, 1.03))
    axes.axvline(0.5, color="black", lw=0.6, ls=":")
    axes.invert_yaxis()
    return figure
