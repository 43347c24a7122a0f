"""The noise levels at which a sampler asks for the score."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from shared_core.errors import InputError

from ctmc_bounds.checks import MOST_INTERVALS, check_times


@dataclass(frozen=True)
class Schedule:
    """Noise levels T = t_0 > t_1 > ... > t_N = delta; sampler time is u_k = T - t_k.

    Raises:
        InputError: if they do not fall strictly, or delta < 0.
    """

    times: tuple[float, ...]
    name: str = "given"

    def __post_init__(self) -> None:
        if len(self.times) < 2:
            raise InputError(f"the grid has {len(self.times)} points; give at least T and delta")
        for k, (t, later) in enumerate(zip(self.times[:-1], self.times[1:], strict=True)):
            if not t > later:
                raise InputError(
                    f"the grid must fall from T to delta: t_{k} = {t:.6g} is followed by {later:.6g}"
                    " (in sampler time u = T - t it must increase)"
                )
        check_times(self.times[0], self.times[-1])

    @property
    def T(self) -> float:  # noqa: N802 - the paper's letter
        """Noise level at which sampling starts."""
        return self.times[0]

    @property
    def delta(self) -> float:
        """Noise level at which sampling stops."""
        return self.times[-1]

    @property
    def N(self) -> int:  # noqa: N802 - the paper's letter
        """Intervals."""
        return len(self.times) - 1

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """(t_k, h_k) of every interval."""
        return [(t, t - later) for t, later in zip(self.times[:-1], self.times[1:], strict=True)]

    @classmethod
    def from_sampler_times(cls, u: Sequence[float], T: float, delta: float) -> "Schedule":
        """From 0 = u_0 < ... < u_N = T - delta.

        Raises:
            InputError: if the ends are not those.
        """
        if abs(u[0]) > 1e-12 or abs(u[-1] - (T - delta)) > 1e-12 * max(1.0, T):
            raise InputError(f"the grid runs from {u[0]:.6g} to {u[-1]:.6g}; expected 0 to T - delta = {T - delta:.6g}")
        return cls((T, *(T - value for value in u[1:-1]), delta))

    @classmethod
    def from_noise(cls, sigma: Callable[[float], float], points: Sequence[float]) -> "Schedule":
        """Of a model trained with total noise sigma(s), at the points s from noise to data.

        Only values of sigma are used: sigma'(s) ds would travel another distance than sigma(s_k) - sigma(s_{k+1}).
        """
        return cls(tuple(float(sigma(point)) for point in points), "from_noise")


def constant(T: float, delta: float, N: int) -> Schedule:
    """N equal intervals; delta = 0 is allowed.

    Raises:
        InputError: for a wrong T, delta or N.
    """
    check_times(T, delta)
    _check_steps(N)
    return Schedule((*(T + (delta - T) * k / N for k in range(N)), delta), "constant")


def exp_const(T: float, delta: float, N: int | None = None, c: float | None = None) -> Schedule:
    """Intervals h_k = c min(1, t_k); or exactly N of them, uniform in v(t) = t - 1 above 1 and log t below.

    Raises:
        InputError: for delta = 0 (infinitely many steps), or unless one of N and c is given.
    """
    check_times(T, delta)
    if delta == 0:
        raise InputError("delta = 0 with schedule exp_const: its steps shrink with t and never reach 0; give delta > 0"
                         " or use schedule constant")  # fmt: skip
    if (N is None) == (c is None):
        raise InputError(f"N = {N}, c = {c}: exp_const takes exactly one of them")
    if c is not None:
        return _by_ratio(T, delta, c)
    assert N is not None
    _check_steps(N)
    start, end = clock(T), clock(delta)
    inner = [clock_inverse(start + (end - start) * k / N) for k in range(1, N)]
    return Schedule((T, *inner, delta), "exp_const")


def _by_ratio(T: float, delta: float, c: float) -> Schedule:
    if not 0 < c < 1:
        raise InputError(f"c = {c}: the step h = c min(1, t) needs 0 < c < 1")
    _check_steps(math.ceil((clock(T) - clock(delta)) / c))
    times = [T]
    while times[-1] - c * min(1.0, times[-1]) > delta * (1 + 1e-12):
        times.append(times[-1] - c * min(1.0, times[-1]))
    return Schedule((*times, delta), "exp_const")


def clock(t: float) -> float:
    """v(t) = t - 1 above 1, log t below: what exp_const is uniform in."""
    return t - 1 if t > 1 else math.log(t)


def clock_inverse(v: float) -> float:
    """t of a clock value."""
    return v + 1 if v > 0 else math.exp(v)


def _check_steps(N: int) -> None:
    if N < 1:
        raise InputError(f"N = {N}: a schedule needs at least one interval")
    if N > MOST_INTERVALS:
        raise InputError(f"N = {N}: more intervals than the cap of {MOST_INTERVALS}; take longer steps")


def by_density(T: float, delta: float, N: int, density: Callable[[float], float], points: int = 400) -> Schedule:
    """N intervals with h proportional to 1 / density(t): uniform in the integral of the density.

    Args:
        T: start.
        delta: end.
        N: intervals.
        density: positive, of t; evaluated at `points` levels and joined by straight lines in log t.
        points: evaluations.
    """
    check_times(T, delta)
    _check_steps(N)
    low = delta if delta > 0 else min(1e-4, T / 100)
    levels = np.unique(np.concatenate([np.geomspace(low, T, points), np.linspace(low, T, points // 2)]))
    if delta == 0:
        levels = np.concatenate([[0.0], levels])
    values = np.array([density(float(max(t, low))) for t in levels])
    passed = np.concatenate([[0.0], np.cumsum(np.diff(levels) * (values[1:] + values[:-1]) / 2)])
    wanted = np.linspace(passed[-1], 0, N + 1)[1:-1]
    inner: Any = np.interp(wanted, passed, levels)
    return Schedule((T, *map(float, inner), delta), "optimal")
