"""Bounds of KL(q_delta || generated law) by the KL of path laws (Girsanov), computed exactly. Ours, constant-free."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.divergences import bregman, kl
from ctmc_bounds.estimators import is_exact, keeps_symmetry, log_scores
from ctmc_bounds.laws import Init, initial_law
from ctmc_bounds.losses import expected_bregman
from ctmc_bounds.marginals import Marginals, choose_space
from ctmc_bounds.parametrisation import set_own
from ctmc_bounds.samplers.base import check_support, noised
from ctmc_bounds.samplers.time_frozen import TimeFrozen
from ctmc_bounds.spaces import EnumeratedSpace

NODES = 8
DIRECT_ENTRIES = 2**22  # n d S above which the path term is telescoped, without any table of moves


@dataclass(frozen=True)
class GirsanovTerms:
    """(G): KL(q_delta || p_hat) <= initialisation + path.

    Attributes:
        initialisation: KL(q_T || initial law).
        path: sum_k int E_{q_t} sum (1/S) D_I(s_t || s_hat_{t_k}).
        score: sum_k h_k L_SE(t_k), the paper's Assumption 1 (up to its normalisation); 0 for the exact score.
        discretisation: the path term that the exact score would have.
        intervals: path term of every interval.
    """

    initialisation: float
    path: float
    score: float
    discretisation: float
    intervals: tuple[float, ...]

    @property
    def total(self) -> float:
        """The bound."""
        return self.initialisation + self.path


def girsanov_terms(
    data: DataLaw,
    sampler: TimeFrozen,
    estimator: Any = None,
    init: Init | Tensor = "uniform",
    representation: str = "auto",
    nodes: int = NODES,
) -> GirsanovTerms:
    """The path KL between the reverse process and a time-frozen sampler, by `quadrature` on each interval.

    Args:
        data: with exact marginals.
        sampler: paper, uniformization or midpoint, with its schedule.
        estimator: of the score; None is the exact one.
        init: as in `Sampler.law`.
        representation: as in `Sampler.law`.
        nodes: of the quadrature.

    Raises:
        InputError: for delta = 0 without full support, or too many states.
    """
    check_support(data, sampler.schedule.delta)
    marginals = Marginals(data, choose_space(data, representation, keeps_symmetry(estimator, data)))
    exact = is_exact(estimator, data)
    q_T = marginals.probabilities(sampler.schedule.T)
    start = initial_law(marginals, sampler.schedule.T, init)
    exact_path = _path(marginals, sampler, None, nodes)
    path = exact_path if exact else _path(marginals, sampler, estimator, nodes)
    score = 0.0
    if not exact:
        for t, h in sampler.schedule.intervals:
            time = sampler.frozen_time(t, h)
            score += h * expected_bregman(marginals, time, log_scores(marginals, time, estimator))
    return GirsanovTerms(kl(q_T, start), math.fsum(path), score, math.fsum(exact_path), tuple(path))


def quadrature(t: float, h: float, nodes: int = NODES) -> list[tuple[float, float]]:
    """Gauss-Legendre points and weights on [t - h, t], in panels over which the noise level at most halves.

    Scores vary on the scale of t itself, so that few points on a panel reach rounding; what lies below 2^-12 t is one
    panel (it is there only where the schedule ends near 0).
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    edges, low = [t], t - h
    while edges[-1] / 2 > max(low, t * 2**-12) * (1 + 1e-9):
        edges.append(edges[-1] / 2)
    found = []
    for high, end in pairwise([*edges, low]):
        half = (high - end) / 2
        found += [(high - half * float(x + 1), half * float(w)) for x, w in zip(points, weights, strict=True)]
    return found


def _path(marginals: Marginals, sampler: TimeFrozen, estimator: Any, nodes: int) -> list[float]:
    space = marginals.space
    if isinstance(space, EnumeratedSpace) and estimator is None and space.n * space.d * space.S > DIRECT_ENTRIES:
        return _large_path(marginals, sampler, nodes)
    found = []
    for t, h in sampler.schedule.intervals:
        log_hat = log_scores(marginals, sampler.frozen_time(t, h), estimator)
        found.append(
            sum(weight * expected_bregman(marginals, time, log_hat) for time, weight in quadrature(t, h, nodes))
        )
    return found


def _large_path(marginals: Marginals, sampler: TimeFrozen, nodes: int) -> list[float]:
    """E_{q_t} R_{t_k} - d(1-1/S) - <q_t, Q log(q_t/q_{t_k})>: the same integrand from a few vectors of size n."""
    space = marginals.space
    assert isinstance(space, EnumeratedSpace)
    blocks, rate = space.blocks, space.ctmc.jump_rate
    found = []
    for t, h in sampler.schedule.intervals:
        frozen = marginals.probabilities(sampler.frozen_time(t, h))
        exits, total = blocks.sum(blocks.adjacency, frozen) / frozen, 0.0
        for time, weight in quadrature(t, h, nodes):
            q = marginals.probabilities(time)
            log_ratio = torch.log(q / frozen)
            generator = blocks.sum(blocks.adjacency, log_ratio) - rate * log_ratio
            total += weight * float((q * (exits - rate - generator)).sum())
        found.append(total)
    return found


def telescoped_bound(
    data: DataLaw, sampler: TimeFrozen, estimator: Any = None, init: Init | Tensor = "uniform", nodes: int = NODES
) -> float:
    """(G'): the same number without the true score at intermediate times.

    KL(q_delta||pi) - d(1-1/S)(T-delta) + sum_k <m_k, g_k>, with m_k the integral of q over interval k and
    g_k(z) = (1/S) sum [s_hat(z)[i,c] - log s_hat(z^{i->c})[i, z_i]]; for another start than pi, plus
    KL(q_T || start) - KL(q_T || pi).
    """
    marginals = Marginals(data, choose_space(data, "auto", keeps_symmetry(estimator, data)))
    space, schedule = marginals.space, sampler.schedule
    pi, q_T = space.uniform(), marginals.probabilities(schedule.T)
    total = kl(marginals.probabilities(schedule.delta), pi) - kl(q_T, pi)
    total += kl(q_T, initial_law(marginals, schedule.T, init)) - space.ctmc.expected_jumps(schedule.T, schedule.delta)
    for t, h in schedule.intervals:
        log_hat = log_scores(marginals, sampler.frozen_time(t, h), estimator)
        back = log_hat[..., space.dst, space.reverse]
        g = ((torch.exp(log_hat) - back) * space.multiplicity).sum(-1) / space.S
        for time, weight in quadrature(t, h, nodes):
            total += weight * float((marginals.probabilities(time) * g).sum())
    return total


@dataclass(frozen=True)
class PathEstimate:
    """A Monte-Carlo estimate of the path term: `mean` +- `standard_error`, from `n` paths' worth of draws."""

    mean: float
    standard_error: float
    n: int


def path_monte_carlo(
    data: DataLaw, sampler: TimeFrozen, estimator: Any, n: int, generator: torch.Generator | None = None
) -> PathEstimate:
    """The path term of (G) for any d and any estimator, unbiased: x_0 ~ data, t uniform in each interval, x_t.

    Args:
        data: a law with exact scores and `.sample`.
        sampler: paper, uniformization or midpoint.
        estimator: of the score; None is the exact one.
        n: draws per interval.
        generator: of the draws.
    """
    total = torch.zeros(n, dtype=torch.float64, device=data.device)
    guess = data if estimator is None else estimator
    for t, h in sampler.schedule.intervals:
        u = torch.rand(n, dtype=torch.float64, generator=generator, device=data.device)
        times = t - h * u
        x = noised(data.sample(n, generator), data.S, times, generator)
        truth = torch.log(data.score(x, times))
        loss = bregman(truth, torch.log(guess(x, sampler.frozen_time(t, h))))
        total += h * set_own(loss, x, 0.0).sum((-1, -2)) / data.S
    return PathEstimate(float(total.mean()), float(total.std() / math.sqrt(n)), n)
