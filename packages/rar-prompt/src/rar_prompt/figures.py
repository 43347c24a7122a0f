"""Figures of a run: accuracy with intervals, gain over plain, cost against accuracy, transfer, agreement."""

from typing import Any

from matplotlib.figure import Figure

from rar_prompt.summary import Records, group, transfer_matrix

Rows = list[dict[str, Any]]
BLUE, GREY = "#2b6cb0", "#718096"
MARKERS = "os^vDP*Xh<>p"


def run_figures(result: dict[str, Any], records: Records) -> dict[str, Figure]:
    """Every figure that the run has the data for, by name."""
    rows = [row for row in result["conditions"] if row["accuracy"] is not None]
    figures = {}
    if rows:
        figures["accuracy"] = accuracy(rows)
        figures["outcomes"] = outcomes(rows)
        figures["cost"] = cost(rows)
    if len({row["task"] for row in rows}) >= 3:
        figures["radar"] = radar(rows)
    if result["comparisons"]:
        figures["gain"] = gain(result["comparisons"])
    matrix = transfer_matrix(records)
    if len(matrix) > 1:
        figures["transfer"] = transfer(matrix)
    if any(record["agreement"] not in (0.0, 1.0) for record in records):
        figures["agreement"] = agreement(records)
    return figures


def accuracy(rows: Rows) -> Figure:
    """Accuracy of each condition with its Wilson interval, one group of bars per task."""
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['task']}  {row['condition']}" for row in rows]
    values = [row["accuracy"] for row in rows]
    ends = [[row["accuracy"] - row["low"] for row in rows], [row["high"] - row["accuracy"] for row in rows]]
    axes.barh(names, values, xerr=ends, color=BLUE, ecolor=GREY, capsize=2)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy, 95 % Wilson interval")
    axes.tick_params(axis="y", labelsize=8)
    return figure


def outcomes(rows: Rows) -> Figure:
    """What became of the questions: correct, wrong, unparsed, truncated, error."""
    colours = {
        "correct": "#2f855a",
        "wrong": "#c53030",
        "unparsed": "#d69e2e",
        "truncated": "#805ad5",
        "error": "#4a5568",
    }
    figure = Figure(figsize=(8, 0.9 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['task']}  {row['condition']}" for row in rows]
    start = [0.0] * len(rows)
    for outcome, colour in colours.items():
        shares = [row["outcomes"].get(outcome, 0) / row["n"] for row in rows]
        if any(shares):
            axes.barh(names, shares, left=start, color=colour, label=outcome)
            start = [a + b for a, b in zip(start, shares, strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the questions")
    axes.tick_params(axis="y", labelsize=8)
    figure.legend(loc="outside upper center", ncols=5, fontsize=8)
    return figure


def cost(rows: Rows) -> Figure:
    """Tokens (or money where every price is known) per question against accuracy."""
    priced = all(row["cost"] is not None for row in rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = list(dict.fromkeys(row["condition"] for row in rows))
    figure = Figure(figsize=(9, 1.5 + max(3.0, 0.2 * (len(tasks) + len(names)))), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        spent = (row["cost"] if priced else row["tokens"]) / row["n"]
        marker, colour = MARKERS[tasks.index(row["task"]) % len(MARKERS)], f"C{names.index(row['condition']) % 10}"
        axes.scatter(spent, row["accuracy"], color=colour, marker=marker, alpha=0.8)
    for place, name in enumerate(names):
        axes.plot([], [], "o", color=f"C{place % 10}", label=name)
    for place, task in enumerate(tasks if len(tasks) > 1 else []):
        axes.plot([], [], MARKERS[place % len(MARKERS)], color=GREY, label=task)
    axes.set(ylim=(-0.03, 1.03), xlabel=f"{'money' if priced else 'tokens'} per question", ylabel="accuracy")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def gain(rows: Rows) -> Figure:
    """Accuracy minus plain accuracy on the same questions, with the paired bootstrap interval."""
    figure = Figure(figsize=(8, 0.7 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['task']}  {row['comparison']}" for row in rows]
    values = [row["difference"] for row in rows]
    ends = [
        [max(0, row["difference"] - row["low"]) for row in rows],
        [max(0, row["high"] - row["difference"]) for row in rows],
    ]
    axes.errorbar(values, names, xerr=ends, fmt="o", color=BLUE, ecolor=GREY, capsize=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="gain over plain, 95 % paired bootstrap interval")
    axes.tick_params(axis="y", labelsize=8)
    return figure


def radar(rows: Rows) -> Figure:
    """One axis per task, one line per condition (the form of the project page's charts)."""
    import math

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    angles = [2 * math.pi * index / len(tasks) for index in range(len(tasks))]
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    for (condition,), members in group(rows, "condition").items():
        values = {row["task"]: row["accuracy"] for row in members}
        line = [values.get(task, 0.0) for task in tasks]
        axes.plot([*angles, angles[0]], [*line, line[0]], label=condition)
    axes.set_xticks(angles, tasks, fontsize=8)
    axes.set_ylim(0, 1)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def transfer(matrix: dict[str, dict[str, float]]) -> Figure:
    """accuracy[rephraser][responder] as a heat map."""
    rephrasers = list(matrix)
    responders = list(dict.fromkeys(name for row in matrix.values() for name in row))
    values = [[matrix[a].get(b, float("nan")) for b in responders] for a in rephrasers]
    figure = Figure(figsize=(2.5 + 1.2 * len(responders), 1.8 + 0.6 * len(rephrasers)), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(responders)), responders, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(rephrasers)), rephrasers, fontsize=8)
    axes.set(xlabel="responder", ylabel="rephraser")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    figure.colorbar(picture, label="accuracy")
    return figure


def agreement(records: Records) -> Figure:
    """How often the samples of one question agree: a question read in several ways scatters its answers."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (condition,), members in group(records, "condition").items():
        axes.hist([r["agreement"] for r in members], bins=20, range=(0, 1), histtype="step", label=condition)
    axes.set(xlabel="share of samples that agree with the plurality", ylabel="questions")
    axes.legend(fontsize=8)
    return figure
