"""The set in which the claims register, and what they share."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from shared_core.claims import ClaimSet

# below the paper's scale the networks are small, and threads that wait for a busy core cost more
claims = ClaimSet("spin-diffusion", one_thread=("smoke", "laptop"))
NUM_SEEDS = 3
SPREAD_NOTE = f"{NUM_SEEDS} seeds; interval: smallest and largest"


def spread(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean, and the smallest and largest value."""
    return statistics.mean(values), (min(values), max(values))


def listed(values: Sequence[float], digits: int = 3) -> str:
    """Numbers in a row, for a note."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def new_figure(title: str, xlabel: str, ylabel: str, panels: int = 1) -> tuple[Figure, Any]:
    """A figure with its axes (an array of them for more than one panel)."""
    figure = Figure(figsize=(6.4 if panels == 1 else 4.6 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels)
    figure.suptitle(title)
    for each in [axes] if panels == 1 else axes:
        each.set_xlabel(xlabel)
        each.set_ylabel(ylabel)
        each.grid(alpha=0.3)
    return figure, axes
