"""Figures of the evaluation report and of the claims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.fidelity import cooccurrence, correlation, prevalence
from d3pm_ehr.nearest_records import nearest

CAPTIONS = {
    "prevalence": "Share of records with each code; the grey points are held-out real records, the line is equality.",
    "correlations": "Correlations of the most common codes: real, synthetic, difference.",
    "lengths": "Codes per record.",
    "utility": "AUROC of classifiers trained on each set of records, tested on real ones.",
    "distances": "Hamming distance of training and of held-out records to the nearest synthetic record.",
}


def _axes(columns: int = 1, width: float = 5.0, height: float = 4.2) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def prevalence_figure(reference: Cohort, generators: Mapping[str, Cohort], held_out: str = "held-out real") -> Any:
    """Prevalence of every code in each generator's records against the reference, log axes."""
    names = [name for name in generators if name != held_out]
    figure, axes = _axes(len(names), 4.2, 4.0)
    p = prevalence(reference)
    low = 0.5 / max(len(reference), max(len(cohort) for cohort in generators.values()))
    for axis, name in zip(axes, names, strict=True):
        if held_out in generators:
            axis.scatter(_floor(p, low), _floor(prevalence(generators[held_out]), low), s=14, c="0.75", label=held_out)
        axis.scatter(_floor(p, low), _floor(prevalence(generators[name]), low), s=8, c="C0", label=name)
        axis.plot([low, 1], [low, 1], c="k", lw=0.8)
        axis.set(xscale="log", yscale="log", xlabel="real (reference half)", ylabel="synthetic", title=name)
        axis.legend(fontsize=8, loc="upper left")
    return figure


def _floor(values: NDArray[np.float64], low: float) -> NDArray[np.float64]:
    return np.maximum(values, low)


def correlation_figure(reference: Cohort, synthetic: Cohort, name: str, codes: int = 40) -> Any:
    """Correlation heat maps of the most common codes."""
    order = np.sort(np.argsort(-prevalence(reference), kind="stable")[:codes])
    real, made = (correlation(cooccurrence(_only(cohort, order))) for cohort in (reference, synthetic))
    figure, axes = _axes(3, 4.0, 3.8)
    for axis, matrix, title in zip(axes, (real, made, made - real), ("real", name, "difference"), strict=True):
        image = axis.imshow(matrix, vmin=-0.5, vmax=0.5, cmap="RdBu_r")
        axis.set(title=f"{title}, {len(order)} codes", xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def _only(cohort: Cohort, codes: NDArray[np.int64]) -> Cohort:
    names = tuple(cohort.vocabulary.codes[i] for i in codes)
    return replace(cohort, vocabulary=replace(cohort.vocabulary, codes=names, counts=()), codes=cohort.codes[:, codes])


def length_figure(reference: Cohort, generators: Mapping[str, Cohort]) -> Any:
    """Histograms of codes per record."""
    figure, (axis,) = _axes(1, 7.0)
    for index, (name, cohort) in enumerate({"real (reference half)": reference, **generators}.items()):
        counts = np.bincount(cohort.lengths())
        style = {"c": "k", "lw": 2} if index == 0 else {"lw": 1.2}
        axis.plot(np.arange(len(counts)), counts / len(cohort), label=name, **style)
    axis.set(xlabel="codes in a record", ylabel="share of records")
    axis.legend(fontsize=8)
    return figure


def utility_figure(utility: Mapping[str, Mapping[str, Any]]) -> Any:
    """AUROC with its interval, grouped by label."""
    names = list(utility)
    tasks = [task for task in utility[names[0]] if all(rows[task]["auroc"] is not None for rows in utility.values())]
    figure, (axis,) = _axes(1, max(5.0, 1.6 * len(tasks) + 2))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        rows = [utility[name][task] for task in tasks]
        heights = [row["auroc"] for row in rows]
        spread = np.array(
            [np.abs(np.array(row.get("auroc_interval", [h, h])) - h) for row, h in zip(rows, heights, strict=True)]
        )
        axis.bar(
            np.arange(len(tasks)) + index * width,
            heights,
            width,
            yerr=spread.reshape(-1, 2).T,
            label=name,
            error_kw={"lw": 0.7},
        )
    axis.set_xticks(np.arange(len(tasks)) + 0.4 - width / 2, tasks)
    axis.axhline(0.5, c="k", lw=0.8)
    axis.set(ylabel="AUROC on real records", ylim=(0, 1))
    axis.legend(fontsize=7, ncols=2, loc="upper right")
    return figure


def distance_figure(train: Cohort, held_out: Cohort, synthetic: Cohort, name: str, rows: int = 2000) -> Any:
    """Distances that the membership attack sees."""
    figure, (axis,) = _axes(1, 6.0)
    size = min(rows, len(train), len(held_out))
    for cohort, label, colour in ((train, "training records", "C1"), (held_out, "held-out records", "C0")):
        distance = nearest(cohort.codes[:size], synthetic.codes)[0]
        counts = np.bincount(distance)
        axis.plot(np.arange(len(counts)), counts / size, "o-", ms=3, label=label, c=colour)
    axis.set(xlabel=f"Hamming distance to the nearest record of {name}", ylabel="share of records")
    axis.legend(fontsize=8)
    return figure


def guidance_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Share of records that fulfil the condition, against the fidelity of their other codes and the diversity."""
    figure, axes = _axes(2, 5.0)
    for axis, key, label in (
        (axes[0], "others_r2", "R2 of the other codes' prevalence, given the condition"),
        (axes[1], "diversity", "mean Hamming distance between records"),
    ):
        good = [row for row in rows if row[key] is not None]
        axis.scatter([row["share"] for row in good], [row[key] for row in good], c="C0")
        for row in good:
            axis.annotate(row["name"], (row["share"], row[key]), fontsize=7, xytext=(4, 3), textcoords="offset points")
        axis.set(xlabel="share that fulfils the condition", ylabel=label, xlim=(-0.03, 1.18))
    return figure


def curves_figure(
    x: str, y: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], logy: bool = False
) -> Any:
    """Named curves."""
    figure, (axis,) = _axes(1, 6.0)
    for name, (xs, ys) in curves.items():
        axis.plot(xs, ys, "o-", ms=3, label=name)
    axis.set(xlabel=x, ylabel=y, yscale="log" if logy else "linear")
    axis.legend(fontsize=8)
    return figure


def bars_figure(
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]], ylabel: str, note: float | None = None
) -> Any:
    """Bars with low and high ends, grouped: {group: {name: (value, low, high)}}."""
    names = list(next(iter(groups.values())))
    figure, (axis,) = _axes(1, max(5.0, 1.5 * len(groups) + 2))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        values = np.array([group[name] for group in groups.values()])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axis.bar(
            np.arange(len(groups)) + index * width, values[:, 0], width, yerr=spread, label=name, error_kw={"lw": 0.8}
        )
    axis.set_xticks(np.arange(len(groups)) + 0.4 - width / 2, list(groups))
    if note is not None:
        axis.axhline(note, c="k", lw=0.8)
    axis.set(ylabel=ylabel)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
