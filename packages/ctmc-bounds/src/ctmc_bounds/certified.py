"""Closed-form certificates for exact scores, early stopping, and the data-free worst case. Ours, constant-free."""

import math
from dataclasses import dataclass
from typing import Any

from shared_core.errors import InputError

from ctmc_bounds.divergences import kl
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.laws import Init, initial_law
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.schedules import Schedule


def movement_constant(marginals: Marginals, low: float, high: float, tolerance: float = 1e-3) -> float:
    """G = sup over t in [low, high] and neighbours x, y of |R_t(y) - R_t(x)|; d/dt log s_t(x)[i,c] is that difference.

    Taken over a grid of times that is refined until the largest value changes by less than `tolerance`, relatively: a
    lower estimate of the supremum, by about that much.
    """
    space = marginals.space

    def gap(t: float) -> float:
        return space.largest_gap(space_exit_rates(marginals, t))

    points = 2
    best = max(gap(low), gap(high))
    while points <= 32:
        finer = max(gap(low + (high - low) * (2 * k + 1) / (2 * points)) for k in range(points))
        if finer <= best * (1 + tolerance):
            return max(best, finer)
        best, points = finer, 2 * points
    return best


def space_exit_rates(marginals: Marginals, t: float) -> Any:
    """R_t of the exact score on the space of `marginals`."""
    from ctmc_bounds.spaces import EnumeratedSpace

    space = marginals.space
    if isinstance(space, EnumeratedSpace):
        q = marginals.probabilities(t)
        return space.blocks.sum(space.blocks.adjacency, q) / q
    return space.exit_rates(space.log_scores(marginals.log_q(t)))


def worst_case_movement(ctmc: UniformCTMC, low: float) -> float:
    """d [(S-1)/S + 1/(e^t - 1)] at the low end of an interval: no data law moves faster."""
    return ctmc.exit_rate_bound(low)


def _excess(z: float) -> float:
    """((e^z - 1)/z - 1 - z/2), by its series where that would cancel."""
    if z > 700:
        return math.inf
    if z > 0.5:
        return math.expm1(z) / z - 1 - z / 2
    term, total = z * z / 6, 0.0
    for k in range(4, 30):
        total += term
        term *= z / k
    return total


@dataclass(frozen=True)
class CertifiedBound:
    """(C): KL(q_delta || p_hat) <= initialisation + path, for exact scores.

    Attributes:
        initialisation: KL(q_T || start), or d e^{-T} log S without data.
        path: d(1-1/S) sum_k [(e^{h G} - 1)/G - h - h^2 G/2], G = G_k.
        movement: G_k of every interval.
        status: what the number rests on.
    """

    initialisation: float
    path: float
    movement: tuple[float, ...]
    status: str

    @property
    def total(self) -> float:
        """The bound."""
        return self.initialisation + self.path


def certified_bound(
    schedule: Schedule, data: Marginals | UniformCTMC, init: Init = "uniform", tolerance: float = 1e-3
) -> CertifiedBound:
    """(C) for the paper's scheme with exact scores.

    Args:
        schedule: noise levels.
        data: marginals of a law, or only (S, d): then nothing is assumed of the data.
        init: `uniform`, or `exact` (no initialisation error).
        tolerance: of the search for each G_k.

    Raises:
        InputError: for delta = 0 without data (the movement of an unknown score is unbounded there).
    """
    if isinstance(data, Marginals):
        ctmc = data.space.ctmc
        movement = [movement_constant(data, t - h, t, tolerance) for t, h in schedule.intervals]
        start = kl(data.probabilities(schedule.T), initial_law(data, schedule.T, init))
        status = f"certified for this data law; each G_k from a time grid refined to {tolerance:g}"
    else:
        ctmc = data
        if schedule.delta == 0:
            raise InputError("delta = 0 without a data law: nothing bounds the score there; give delta > 0 or data")
        movement = [worst_case_movement(ctmc, max(t - h, schedule.delta)) for t, h in schedule.intervals]
        start = 0.0 if init == "exact" else ctmc.mixing_bound(schedule.T)
        status = "certified for every data law on [S]^d"
    terms = [h * _excess(h * G) for (_, h), G in zip(schedule.intervals, movement, strict=True)]
    return CertifiedBound(start, ctmc.jump_rate * math.fsum(terms), tuple(movement), status)


def early_stopping_tv(ctmc: UniformCTMC, delta: float) -> dict[str, float]:
    """(E): TV(p_data, q_delta) <= 1 - a_delta^d <= 1 - e^{-d delta (1-1/S)} <= d delta (1-1/S)."""
    log_stay = math.log1p(-(ctmc.S - 1) * -math.expm1(-delta) / ctmc.S)
    rate = delta * ctmc.jump_rate
    return {"stay": -math.expm1(ctmc.d * log_stay), "exponential": -math.expm1(-rate), "linear": rate}


def tv_to_data(ctmc: UniformCTMC, delta: float, kl_bound: float) -> float:
    """TV(p_data, p_hat) <= 1 - a_delta^d + sqrt(KL/2) (Pinsker)."""
    return min(1.0, early_stopping_tv(ctmc, delta)["stay"] + math.sqrt(max(kl_bound, 0.0) / 2))


def constant_bias_score_term(ctmc: UniformCTMC, T: float, delta: float, eta: float) -> float:
    """(B): the score term of s_hat = e^eta s is exactly d(1-1/S)(T-delta)(e^eta - 1 - eta)."""
    return ctmc.expected_jumps(T, delta) * (math.expm1(eta) - eta)
