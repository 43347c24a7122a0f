"""The package's figures: data in, matplotlib figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

Series = Sequence[float]


def _panel(width: float = 6.4, height: float = 4.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Axes, x: str, y: str, title: str = "", log: str = "xy", legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.grid(True, which="major", alpha=0.3)
    if legend:
        axes.legend(fontsize=8, framealpha=0.8)


def curves_figure(
    tasks: Series,
    curves: Mapping[str, Series],
    *,
    bands: Mapping[str, tuple[Series, Series]] | None = None,
    dashed: Sequence[str] = (),
    points: Mapping[str, tuple[Series, Series, Series]] | None = None,
    x: str = "pretraining tasks T",
    y: str = "excess risk over min R_N",
    title: str = "",
) -> Figure:
    """Curves over T on logarithmic axes, some dashed, with bands and points with intervals (x, y, half width)."""
    figure, axes = _panel()
    for index, (name, values) in enumerate(curves.items()):
        style = "--" if name in dashed else "-"
        axes.plot(
            tasks, values, style, marker="o" if len(tasks) < 30 else None, markersize=3, label=name, color=f"C{index}"
        )
        if bands and name in bands:
            axes.fill_between(tasks, *bands[name], alpha=0.2, color=f"C{index}", linewidth=0)
    for index, (name, (px, py, half)) in enumerate((points or {}).items()):
        axes.errorbar(px, py, yerr=half, fmt="s", markersize=4, capsize=3, label=name, color=f"C{index}", mfc="white")
    _finish(axes, x, y, title)
    if len(tasks) <= 7:  # the values that were asked for say more than powers of ten
        axes.set_xticks(list(tasks), [f"{value:g}" for value in tasks])
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def panels_figure(
    panels: Mapping[str, Mapping[str, tuple[Series, Series]]],
    *,
    x: str,
    y: str,
    dashed: Sequence[str] = (),
    log: str = "xy",
) -> Figure:
    """Side by side panels sharing the vertical axis; each curve is (x values, y values)."""
    figure = Figure(figsize=(3.6 * len(panels) + 0.6, 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
        for name, (px, py) in curves.items():
            axes.plot(px, py, "--" if name in dashed else "-", marker="o", markersize=3, label=name)
        _finish(axes, x, y if axes is all_axes[0] else "", title, log)
    return figure


def heat_map_figure(
    rows: Sequence[int], columns: Sequence[int], ratios: Sequence[Series], *, title: str = ""
) -> Figure:
    """Attention's excess over the noise divided by Bayes', trained length down, tested length across."""
    from matplotlib.colors import LogNorm

    figure, axes = _panel(1.6 + 0.62 * len(columns), 1.5 + 0.5 * len(rows))
    values = [[float(value) for value in row] for row in ratios]
    highest = max(max(row) for row in values)
    image = axes.imshow(values, norm=LogNorm(1, max(highest, 2)), cmap="viridis_r", aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            dark = value > highest**0.5
            axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), [str(item) for item in columns])
    axes.set_yticks(range(len(rows)), [str(item) for item in rows])
    axes.set_xlabel("examples at test, M")
    axes.set_ylabel("examples in pretraining, N")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="ratio to Bayes")
    return figure


def bars_figure(rows: Sequence[Mapping[str, Any]], *, value: str, error: str, expected: str, title: str = "") -> Figure:
    """Horizontal bars with standard errors, and a mark where the theory expects each."""
    figure, axes = _panel(7.2, 0.5 * len(rows) + 1.6)
    names = [row["name"] for row in rows]
    axes.barh(names, [row[value] for row in rows], xerr=[row[error] for row in rows], color="C0", alpha=0.7, capsize=3)
    marks = [(row["name"], row[expected]) for row in rows if row[expected] is not None]
    if marks:
        axes.plot([mark for _, mark in marks], [name for name, _ in marks], "kD", markersize=5, label="theory, fitted")
    axes.invert_yaxis()
    spread = [row[value] for row in rows if row[value] > 0]
    wide = bool(spread) and max(spread) > 30 * min(spread)
    _finish(axes, "mean squared error on held-out tasks", "", title, "x" if wide else "", legend=bool(marks))
    return figure
