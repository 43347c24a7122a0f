"""Figures of a run: stable ranks, margins and loss over log time, the activation pattern, the Gram matrix."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from leaky_relu_bias.max_margin import Limits
from leaky_relu_bias.orthogonality import TrainingSet
from leaky_relu_bias.trajectory import Trajectory


def of_trajectory(trajectory: Trajectory, predicted: Limits) -> dict[str, Figure]:
    """Every figure of a finished run, by file name."""
    return {
        "stable_rank": stable_rank_figure(trajectory, predicted),
        "margins": margins_figure(trajectory, predicted),
        "loss": loss_figure(trajectory, predicted),
        "pattern": pattern_figure(trajectory),
        "gram": gram_figure(trajectory.data),
    }


def _log_time(trajectory: Trajectory) -> tuple[np.ndarray, Any]:
    log10_t = trajectory.log_t.numpy() / np.log(10)
    return log10_t, np.isfinite(log10_t)


def _time_axis(axes: Any, trajectory: Trajectory) -> None:
    normalized = trajectory.engine.name == "normalized"
    axes.set_xlabel("log10 of the loss-normalised steps" if normalized else "log10 t (steps)")


def stable_rank_figure(trajectory: Trajectory, predicted: Limits) -> Figure:
    """SR - 1 of each block on a log scale, and the joint SR with its predicted limit."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    log10_t, shown = _log_time(trajectory)
    for block, colour in (("pos", "C0"), ("neg", "C3")):
        lines = left.plot(log10_t[shown], trajectory.column(f"sr_{block}_excess").numpy()[shown], colour, lw=1.2)
        lines[0].set_label("W+" if block == "pos" else "W-")
    left.set_yscale("log")
    left.set_ylabel("block stable rank - 1")
    right.plot(log10_t[shown], trajectory.column("sr_joint").numpy()[shown], "C2", lw=1.2)
    right.set_ylabel("stable rank of the whole W")
    if predicted.applicable:
        right.axhline(predicted.sr_joint, color="k", ls="--", lw=0.8, label=f"limit {predicted.sr_joint:.4f}")
        right.legend()
    left.legend()
    for axes in (left, right):
        _time_axis(axes, trajectory)
    return figure


def margins_figure(trajectory: Trajectory, predicted: Limits, run: int = 0) -> Figure:
    """q_i / ||W||_F of every point of one run, with the predicted limits."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    log10_t, shown = _log_time(trajectory)
    normalized = trajectory.margins[:, run] / trajectory.column("w_fro")[:, run, None]
    colours = ["C0" if label > 0 else "C3" for label in trajectory.data.y.tolist()]
    for point, colour in enumerate(colours):
        axes.plot(log10_t[shown], normalized[:, point].numpy()[shown], colour, lw=0.8, alpha=0.8)
    if predicted.applicable:
        for limit in np.unique(np.round(predicted.margins.cpu().numpy(), 6)):
            axes.axhline(limit, color="k", ls="--", lw=0.7)
        axes.set_title(f"dashed: predicted ({predicted.kind})", fontsize=9)
    axes.set_ylabel("margin q / ||W||  (blue: y = +1, red: -1)")
    _time_axis(axes, trajectory)
    return figure


def loss_figure(trajectory: Trajectory, predicted: Limits) -> Figure:
    """log10 of the loss, and t times the loss with its predicted limit."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    log10_t, shown = _log_time(trajectory)
    left.plot(log10_t[shown], trajectory.column("log10_loss").numpy()[shown], "C0", lw=1.2)
    left.set_ylabel("log10 loss")
    if trajectory.engine.name == "normalized":
        right.plot(log10_t[shown], trajectory.column("w_fro").numpy()[shown], "C0", lw=1.2)
        right.set_ylabel("||W||")
        right.set_yscale("log")
    else:
        right.plot(log10_t[shown], trajectory.column("t_times_loss").numpy()[shown], "C0", lw=1.2)
        right.set_ylabel("t x loss")
        if predicted.applicable:
            label = f"limit {predicted.t_times_loss:.4f}"
            right.axhline(predicted.t_times_loss, color="k", ls="--", lw=0.8, label=label)
            right.legend()
    for axes in (left, right):
        _time_axis(axes, trajectory)
    return figure


def pattern_figure(trajectory: Trajectory, run: int = 0) -> Figure:
    """Which neuron is active on which point at the end; points are sorted by class."""
    data, m = trajectory.data, trajectory.engine.m
    order = data.y.argsort(descending=True, stable=True)
    active = (trajectory.engine.preactivations()[run] > 0)[:, order].cpu().numpy()
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(active, aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
    axes.axhline(m - 0.5, color="C1")
    axes.axvline(float((data.y > 0).sum()) - 0.5, color="C1")
    axes.set_xlabel("points: y = +1, then y = -1")
    axes.set_ylabel("neurons: W+, then W-")
    axes.set_title(f"active (black) after {trajectory.engine.t} exact steps", fontsize=9)
    return figure


def gram_figure(data: TrainingSet) -> Figure:
    """Cosines between the points, with the ratio of the theorem."""
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    axes = figure.subplots()
    order = data.y.argsort(descending=True, stable=True)
    cosines = (data.gram / data.norms.outer(data.norms))[order][:, order].cpu().numpy()
    image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(image, ax=axes, label="cosine")
    axes.set_title(f"R_min^2 / (n p) = {data.ratio:.3g},  R = {data.norm_ratio:.3g}", fontsize=9)
    axes.set_xlabel("points: y = +1, then y = -1")
    return figure
