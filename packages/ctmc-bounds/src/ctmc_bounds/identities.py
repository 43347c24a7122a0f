"""Identities and inequalities that hold for every data law, checked on the user's. What `verify` runs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from shared_core.errors import InputError

from ctmc_bounds.certified import certified_bound, early_stopping_tv, space_exit_rates
from ctmc_bounds.checks import check_enumerable
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.divergences import kl, tv
from ctmc_bounds.estimators import Clipped, LogNormalNoise, log_scores
from ctmc_bounds.exponential import frozen_flow
from ctmc_bounds.girsanov import girsanov_terms, telescoped_bound
from ctmc_bounds.losses import score_entropy
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.parametrisation import cavity_to_score, posterior_to_score, score_to_cavity, score_to_posterior
from ctmc_bounds.samplers import Thinning, TimeFrozen
from ctmc_bounds.schedules import exp_const
from ctmc_bounds.spaces import EnumeratedSpace

VERIFY_STATES = 2**12
CHANCE = 1e-6  # of a false alarm of the simulated check


@dataclass(frozen=True)
class Check:
    """One identity: `measured` must not exceed `allowed`."""

    name: str
    statement: str
    measured: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.measured <= self.allowed


def verify_identities(data: DataLaw, T: float = 6.0, delta: float = 0.01, N: int = 32, seed: int = 0) -> list[Check]:
    """All checks on one law of at most 2^12 states.

    Args:
        data: the law.
        T: horizon of those that need one.
        delta: early stop, above 0.
        N: intervals of those that need a schedule.
        seed: of the perturbed score and of the sampled one.

    Raises:
        InputError: for too many states, or a wrong T or delta.
    """
    check_enumerable(data.S, data.d, VERIFY_STATES, "verify")
    if delta == 0:
        raise InputError("delta = 0: the identities are checked at levels from delta to T, where scores are finite;"
                         " give delta > 0")  # fmt: skip
    schedule = exp_const(T, delta, N)
    marginals = Marginals(data, EnumeratedSpace(data.S, data.d, data.device))
    times = [delta, math.sqrt(delta * T), T]
    found = [*_score_checks(data, marginals, times), *_movement_checks(marginals, times), *_loss_checks(data, marginals,
             times, seed), *_bound_checks(data, marginals, TimeFrozen(schedule))]  # fmt: skip
    return [*found, *_sample_checks(data, marginals, TimeFrozen(schedule), seed)]


def _over(values: list[float]) -> float:
    return max(values)


def _score_checks(data: DataLaw, marginals: Marginals, times: list[float]) -> list[Check]:
    space, ctmc = marginals.space, data.ctmc
    scores = {t: torch.exp(log_scores(marginals, t)) for t in times}
    excess = [max(float(s.max()) / ctmc.score_bounds(t)[1], ctmc.score_bounds(t)[0] / float(s.min())) - 1
              for t, s in scores.items()]  # fmt: skip
    rates = {t: space_exit_rates(marginals, t) for t in times}
    x = space.representatives()
    direct = [float((data.score(x, t).flatten(1) / scores[t] - 1).abs().max()) for t in times]
    back: list[float] = []
    for t in times[:2]:
        s = data.score(x, t)
        for there, again in ((score_to_posterior, posterior_to_score), (score_to_cavity, cavity_to_score)):
            back.append(float((again(there(s, x, t), x, t) / s - 1).abs().max()))
    mean = [abs(float((marginals.probabilities(t) * R).sum()) / ctmc.jump_rate - 1) for t, R in rates.items()]
    bound = _over([float(R.max()) / ctmc.exit_rate_bound(t) - 1 for t, R in rates.items()])
    return [
        Check("score-bounds", "b_t/a_t <= s <= a_t/b_t = 1 + S/(e^t - 1)", _over(excess), 1e-9),
        Check("exit-rate-bound", "R_t(x) <= d [(S-1)/S + 1/(e^t - 1)]", bound, 1e-9),
        Check("mean-exit-rate", "E_{q_t} R_t = d (1 - 1/S)", _over(mean), 1e-9),
        Check("score-by-law", "the law's own score = ratios of the enumerated q_t", _over(direct), 1e-8),
        Check("converters", "score -> posterior or cavity -> score", _over(back), 1e-6),
    ]


def _movement_checks(marginals: Marginals, times: list[float]) -> list[Check]:
    space, gaps, allowed = marginals.space, [], 1e-5
    assert isinstance(space, EnumeratedSpace)
    for t in times[:2]:
        step = 1e-4 * t
        R = space_exit_rates(marginals, t)
        later, earlier = log_scores(marginals, t + step), log_scores(marginals, t - step)
        moved = (later - earlier) / (2 * step)
        scale = max(1.0, space.largest_gap(R))
        allowed = max(allowed, 1e-15 * max(1.0, float(later.abs().max())) / step / scale)  # rounding, at small t
        gaps.append(float((moved - (R[space.dst] - R.unsqueeze(-1))).abs().max()) / scale)
    pi = space.uniform()
    start = kl(marginals.probabilities(0.0), pi)
    mixing = [kl(marginals.probabilities(t), pi) - math.exp(-t) * start for t in times]
    # the middle level: near delta the frozen chain may need an age to cross between modes
    q = marginals.probabilities(max(times[1], 0.5))
    long, p = q**2 / (q**2).sum(), pi
    for _ in range(200):
        before, (p, _) = p, frozen_flow(space.blocks, q, p, 20.0)
        if float((p - before).abs().max()) < 1e-15:
            break
    return [
        Check("movement", "d/dt log s_t(x)[i,c] = R_t(x^{i->c}) - R_t(x), by central differences", max(gaps), allowed),
        Check("mixing", "KL(q_t || uniform) <= e^{-t} KL(p_data || uniform)", max(mixing), 1e-12),
        Check("frozen-limit", "run for ever with a frozen score, the law is q_t^2 / sum q_t^2", tv(long, p), 1e-9),
    ]


def _loss_checks(data: DataLaw, marginals: Marginals, times: list[float], seed: int) -> list[Check]:
    noisy = LogNormalNoise(data, 0.5, seed)
    clipped = Clipped(noisy)
    worse = [score_entropy(marginals, t, clipped) - score_entropy(marginals, t, noisy) for t in times]
    a_d = early_stopping_tv(data.ctmc, times[0])["stay"]
    distance = tv(marginals.probabilities(0.0), marginals.probabilities(times[0]))
    return [
        Check("clipping", "clipping to the bounds never increases the score entropy", max(worse), 1e-12),
        Check("early-stopping", "TV(p_data, q_delta) <= 1 - a_delta^d", distance - a_d, 1e-12),
    ]


def _bound_checks(data: DataLaw, marginals: Marginals, sampler: TimeFrozen) -> list[Check]:
    path = girsanov_terms(data, sampler, representation="enumerated")
    law = sampler.law(data, representation="enumerated")
    other = telescoped_bound(data, sampler)
    # beside the terms of (G'), which do not vanish with (G): uniform data have (G) = 0
    terms = path.total + data.ctmc.expected_jumps(sampler.schedule.T, sampler.schedule.delta)
    certified = certified_bound(sampler.schedule, marginals)
    thinned = Thinning(sampler.schedule).law(data, init="exact", representation="enumerated")
    return [
        Check("kl-below-girsanov", "KL(q_delta || law) <= (G)", law.kl - path.total, 1e-12),
        Check("girsanov-below-certified", "(G) <= (C)", path.total - certified.total, 1e-12),
        Check("telescoped", "(G) = (G'), relatively to its terms", abs(other - path.total) / terms, 1e-12),
        Check("mass", "the propagated law keeps its mass", law.mass_defect, 1e-11),
        Check("exact-reversal", "thinning from q_T ends in q_delta", thinned.tv or 0.0, 1e-10),
    ]


def _sample_checks(data: DataLaw, marginals: Marginals, sampler: TimeFrozen, seed: int) -> list[Check]:
    generator = torch.Generator(device=data.device).manual_seed(seed)
    n = 100_000
    drawn = sampler.sample(n, data, generator)
    law = sampler.law(data, representation="enumerated")
    space = law.space
    assert isinstance(space, EnumeratedSpace)
    seen = torch.bincount(space.number(drawn.tokens), minlength=space.n).to(torch.float64)
    expected = law.probabilities * n
    most = chi_square_limit(expected, CHANCE)
    jumps = expected_jumps(marginals, sampler)
    off = abs((drawn.jumps or 0.0) / jumps - 1)
    # jumps of the exact reversal are those of the forward process, a Poisson number
    return [
        Check("sampler-follows-its-law", f"standardised chi^2 of {n:,} Gillespie draws, by chance above this once in a"
              " million", chi_square_per_cell(seen, expected), most),
        Check("jumps", "jumps per sample = integral of the mean exit rate of the law, within 6 standard errors", off,
              6 / math.sqrt(n * jumps)),
    ]  # fmt: skip


def expected_jumps(marginals: Marginals, sampler: TimeFrozen, nodes: int = 8) -> float:
    """Jumps per sample of a time-frozen sampler with the exact score, from uniform noise, by its law.

    sum_k int E_{p_u} R_{t_k} du; d(1-1/S)(T-delta) without the discretisation.
    """
    space = marginals.space
    assert isinstance(space, EnumeratedSpace)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    p, total = space.uniform(), 0.0
    for t, h in sampler.schedule.intervals:
        q = marginals.probabilities(sampler.frozen_time(t, h))
        R = space_exit_rates(marginals, sampler.frozen_time(t, h))
        for point, weight in zip(points, weights, strict=True):
            at, _ = frozen_flow(space.blocks, q, p, h * float(point + 1) / 2)
            total += h / 2 * float(weight) * float((at * R).sum())
        p, _ = frozen_flow(space.blocks, q, p, h)
    return total


def _pooled(expected: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Which cells stand alone (5 expected or more), and the degrees of freedom with the others as one cell."""
    few = expected < 5
    cells = int((~few).sum()) + int(float(expected[few].sum()) > 0)
    return few, max(1, cells - 1)


def chi_square_per_cell(seen: torch.Tensor, expected: torch.Tensor) -> float:
    """(chi^2 - degrees) / sqrt(2 degrees), cells with fewer than 5 expected pooled; near 0 for draws of the law."""
    few, degrees = _pooled(expected)
    seen = torch.cat([seen[~few], seen[few].sum().reshape(1)])
    expected = torch.cat([expected[~few], expected[few].sum().reshape(1)])
    kept = expected > 0
    seen, expected = seen[kept], expected[kept]
    return float((((seen - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


def chi_square_limit(expected: torch.Tensor, chance: float) -> float:
    """What `chi_square_per_cell` exceeds with probability `chance`: with few cells far more than a normal would."""
    _, degrees = _pooled(expected)
    return float((stats.chi2.isf(chance, degrees) - degrees) / math.sqrt(2 * degrees))
