"""Figures of the verbs and claims; every function returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
MARKERS = "osv^D<>Pph*X"


def curves_figure(
    curves: Mapping[str, Curve],
    x: str,
    y: str,
    *,
    title: str = "",
    dashed: Sequence[str] = (),
    log_x: bool = True,
    log_y: bool = True,
) -> Figure:
    """One panel; `dashed` names what is a bound or a reference line."""
    return panels_figure({title: curves}, x, y, dashed=dashed, log_x=log_x, log_y=log_y)


def panels_figure(
    panels: Mapping[str, Mapping[str, Curve]],
    x: str,
    y: str,
    *,
    dashed: Sequence[str] = (),
    log_x: bool = True,
    log_y: bool = True,
    floor: float = 0.0,
) -> Figure:
    """A panel for each entry, its curves with a marker each; single points are drawn as stars.

    Values below `floor` are drawn there, and the label says what they are: they would flatten all other curves.
    """
    width = 7.6 if max(map(len, panels.values())) > 6 else 5.4
    figure = Figure(figsize=(width * len(panels) + 0.4, 4.2), layout="constrained")
    for index, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for number, (label, (xs, ys)) in enumerate(curves.items()):
            points = [(a, b) for a, b in zip(xs, ys, strict=True) if b is not None and (b > 0 or not log_y)]
            if not points:
                continue
            if min(b for _, b in points) < floor:
                label = f"{label} ({min(b for _, b in points):.0e}, drawn at {floor:.0e})"
                points = [(a, max(b, floor)) for a, b in points]
            style = "--" if label in dashed else "-"
            marker = "*" if len(points) == 1 else "" if label in dashed else MARKERS[number % len(MARKERS)]
            size = 12 if len(points) == 1 else 4
            axes.plot(*zip(*points, strict=True), linestyle=style, marker=marker, markersize=size, label=label)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title, fontsize=10)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if not axes.lines:
            continue
        if len(curves) > 6:  # beside the panel, where it covers no point
            axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        else:
            axes.legend(fontsize=7)
    return figure


def calls_figure(curves: Mapping[str, Curve], title: str = "") -> Figure:
    """KL against network calls, a curve for each sampler; what has no discretisation error is one star."""
    return calls_panels({title: curves})


def calls_panels(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """`calls_figure` for several data laws."""
    return panels_figure(panels, "network calls per sample", "KL(q_delta || generated)", floor=1e-11)


def bars_figure(groups: Mapping[str, Mapping[str, float]], y: str, title: str = "", log_y: bool = True) -> Figure:
    """Grouped bars: outer keys along the axis, inner keys by colour."""
    figure = Figure(figsize=(max(5.0, 1.1 * len(groups) + 2), 4.2), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    width = 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        places = [position + (index - (len(names) - 1) / 2) * width for position in range(len(groups))]
        axes.bar(places, [values.get(name, 0.0) for values in groups.values()], width, label=name)
    axes.set_xticks(range(len(groups)), list(groups), rotation=20, ha="right", fontsize=8)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    if log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.3, axis="y")
    if len(names) > 1 or names != [""]:
        axes.legend(fontsize=7)
    return figure


def law_figure(target: Sequence[float], generated: Sequence[float], title: str, unit: str) -> Figure:
    """Probabilities of the most likely states (or counts), target and generated, and their ratio below."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    places = range(len(target))
    top.plot(places, target, drawstyle="steps-mid", label="q_delta")
    top.plot(places, generated, drawstyle="steps-mid", linestyle="--", label="generated")
    top.set_ylabel("probability")
    top.set_title(title, fontsize=10)
    top.legend(fontsize=8)
    bottom.plot(places, [b / a - 1 if a > 0 else 0.0 for a, b in zip(target, generated, strict=True)], linewidth=1)
    bottom.axhline(0, color="grey", linewidth=0.5)
    bottom.set_ylabel("generated / target - 1")
    bottom.set_xlabel(unit)
    return figure


def schedule_figure(schedules: Mapping[str, Curve], density: Curve) -> Figure:
    """Step lengths of schedules over the noise level, and the local error density c(t)."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, (times, steps) in schedules.items():
        left.plot(times, steps, drawstyle="steps-post", label=label)
    left.set_ylabel("step h")
    left.legend(fontsize=8)
    right.plot(*density)
    right.set_ylabel("c(t): an interval adds c(t) h^3 / 3")
    for axes in (left, right):
        axes.set_xlabel("noise level t")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    return figure
