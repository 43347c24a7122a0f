"""Figures of phase diagrams, boundaries, mechanism and training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sam_cnn.patches import PatchData
from sam_cnn.phase import PhaseDiagram, boundary, theoretical_boundary


def heat_maps(diagrams: Mapping[str, PhaseDiagram], base: PatchData, constant: float, level: float = 0.1) -> Figure:
    """Test error over (d, |mu|), one panel an algorithm, with the measured boundary and SGD's theoretical one."""
    figure = Figure(figsize=(4.2 * len(diagrams) + 0.8, 3.8), layout="constrained")
    axes = figure.subplots(1, len(diagrams), squeeze=False, sharey=True)[0]
    for axis, (name, diagram) in zip(axes, diagrams.items(), strict=True):
        d = torch.tensor(diagram.d, dtype=torch.float64)
        image = axis.pcolormesh(
            d, diagram.mu, diagram.mean().T, shading="nearest", cmap="viridis", vmin=0, vmax=0.5, rasterized=True
        )
        axis.plot(d, boundary(diagram.mu, diagram.mean(), level), "w-", label=f"error {level:g}")
        axis.plot(
            d, theoretical_boundary(d, base, constant), "r--", label=rf"$n|\mu|^4={constant:.2g}\,P^4\sigma_p^4d$"
        )
        axis.set(title=name, xlabel="d", ylim=(min(diagram.mu), max(diagram.mu)))
        if max(diagram.d) > 50 * min(diagram.d):
            axis.set_xscale("log")
        else:
            axis.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel(r"$|\mu|$")
    axes[0].legend(loc="upper left", fontsize=7)
    figure.colorbar(image, ax=list(axes), label="clean test error")
    return figure


def boundaries(d: Sequence[int], curves: Mapping[str, Tensor], slopes: Mapping[str, float]) -> Figure:
    """|mu| at the boundary against d, on logarithmic axes."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        axis.loglog(d, curve, "o-", label=f"{name}: slope {slopes[name]:.3f}")
    axis.set(xlabel="d", ylabel=r"$|\mu|$ at the boundary")
    axis.legend(fontsize=8)
    return figure


def mechanism(rows: Sequence[Mapping[str, Any]], switch: int) -> Figure:
    """Parts of y f, and active own-label neurons, over the steps of GD and SAM-then-GD."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    for name, colour in (("gd", "C0"), ("sam", "C1")):
        left.plot(steps, [row[f"{name}_signal"] for row in rows], f"{colour}-", label=f"{name.upper()}, signal")
        left.plot(steps, [row[f"{name}_noise"] for row in rows], f"{colour}--", label=f"{name.upper()}, noise")
        right.plot(steps, [row[f"{name}_active"] for row in rows], f"{colour}-", label=f"{name.upper()}, at W")
    there = [(row["step"], row["sam_active_perturbed"]) for row in rows if row["sam_active_perturbed"] is not None]
    right.plot(*zip(*there, strict=True), "C1:", label="SAM, at W + eps")
    for axis in (left, right):
        axis.axvline(switch, color="0.7", lw=1)
        axis.set_xscale("symlog", linthresh=10)
        axis.set_xlim(0, steps[-1])
        axis.set_xlabel("step (SAM until the grey line)")
        axis.legend(fontsize=7)
    left.set_ylabel("mean part of y f on the training set")
    right.set_ylabel("own-label neurons active on the noise")
    return figure


def training_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Figure:
    """Validation accuracy and memorised wrong labels over the epochs, one line a seed."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, runs) in enumerate(histories.items()):
        for number, history in enumerate(runs):
            epochs = [row["epoch"] for row in history]
            label = name if number == 0 else None
            left.plot(epochs, [row["validation"] for row in history], f"C{index}", alpha=0.7, label=label)
            if "memorised" in history[0]:
                right.plot(epochs, [row["memorised"] for row in history], f"C{index}", alpha=0.7, label=label)
    left.set(xlabel="epoch", ylabel="validation accuracy, %")
    right.set(xlabel="epoch", ylabel="wrong labels memorised, %")
    left.legend(fontsize=8)
    return figure
