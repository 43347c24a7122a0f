"""The set in which the claims register, and what they share."""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from shared_core.claims import ClaimSet, Context

from dndm_sampler.sampler import BiasWarning, DNDMSampler, SamplerOutput

# below the paper's scale the networks are small, and threads that wait for a busy core cost more
claims = ClaimSet("dndm-sampler", one_thread=("smoke", "laptop"))
NUM_SEEDS = 3
SEEDS_NOTE = f"{NUM_SEEDS} sampling seeds; interval: smallest and largest"


def timed_samples(
    context: Context, sampler: DNDMSampler, batch: int, length: int, **inputs: Any
) -> list[tuple[SamplerOutput, float]]:
    """One batch and its seconds for each of `NUM_SEEDS` seeds."""
    found = []
    for seed in range(NUM_SEEDS):
        generator = torch.Generator().manual_seed(1000 * context.seed + seed)
        start = time.perf_counter()
        out = sampler.sample(batch, length, generator=generator, device=context.device, **inputs)
        found.append((out, time.perf_counter() - start))
    return found


def unwarned_sampler(denoiser: Any, **options: Any) -> DNDMSampler:
    """A `DNDMSampler` that does not warn of the bias that the claims and comparisons measure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiasWarning)
        return DNDMSampler(denoiser, **options)


def spread(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean, and the smallest and largest value."""
    return statistics.mean(values), (min(values), max(values))


def paired(ours: Sequence[float], theirs: Sequence[float], how: Callable[[float, float], float]) -> list[float]:
    """`how(ours, theirs)` seed by seed."""
    return [how(a, b) for a, b in zip(ours, theirs, strict=True)]


def new_figure(title: str, xlabel: str, ylabel: str, log: str = "") -> tuple[Figure, Any]:
    """A figure with one set of axes."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    for letter in log:
        log_scale(axes, letter)
    axes.grid(alpha=0.3)
    return figure, axes


def log_scale(axes: Any, letter: str) -> None:
    """A logarithmic x or y axis with plain numbers at 1, 2 and 5: the default labels run into each other."""
    getattr(axes, f"set_{letter}scale")("log")
    axis = getattr(axes, f"{letter}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
