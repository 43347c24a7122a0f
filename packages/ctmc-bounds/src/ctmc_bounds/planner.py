"""How far to noise and how many steps to take for a target error. Ours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_core.errors import InputError

from ctmc_bounds.certified import certified_bound, early_stopping_tv
from ctmc_bounds.checks import LATEST, check_times
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.divergences import kl
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.local_error import optimal_schedule
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.samplers import SAMPLERS, Euler, Thinning, make_sampler
from ctmc_bounds.schedules import Schedule, constant, exp_const

By = Literal["exact", "certified", "worst_case"]
Grid = Literal["exp_const", "constant", "optimal"]
MOST_STEPS = 2**14


@dataclass(frozen=True)
class Plan:
    """What one sampler needs for KL(q_delta || generated) <= eps.

    Attributes:
        sampler: its name.
        N: fewest intervals found; 0 for thinning, which has none; None where the target is out of reach (with
            `MOST_STEPS`, or with this T) or there is no law at this size.
        calls: expected network calls per sample.
        value: the KL, or its bound, at that N.
        basis: what the promise rests on.
    """

    sampler: str
    N: int | None
    calls: float | None
    value: float | None
    basis: str


def horizon(eps: float, target: DataLaw | UniformCTMC) -> float:
    """The smallest T with KL(q_T || uniform) <= eps: exact for a data law, from d e^{-T} log S without one.

    Raises:
        InputError: unless 0 < eps.
    """
    if not (math.isfinite(eps) and eps > 0):
        raise InputError(f"eps = {eps}: the target KL must be above 0")
    ctmc = target.ctmc if isinstance(target, DataLaw) else target
    worst = max(math.log(ctmc.d * math.log(ctmc.S) / eps), 1e-3)
    if isinstance(target, UniformCTMC):
        return worst
    marginals = Marginals(target)
    pi = marginals.space.uniform()
    low, high = 0.0, worst
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if kl(marginals.probabilities(middle), pi) <= eps else (middle, high)
    return high


def make_schedule(grid: Grid, T: float, delta: float, N: int, data: DataLaw | Marginals | None = None) -> Schedule:
    """The schedule of that name.

    Raises:
        InputError: for an unknown name, or `optimal` without a data law.
    """
    if grid == "optimal":
        if data is None:
            raise InputError("grid optimal needs a data law: it follows the local error of that law")
        return optimal_schedule(data, T, delta, N)
    if grid == "exp_const":
        return exp_const(T, delta, N)
    if grid == "constant":
        return constant(T, delta, N)
    raise InputError(f"grid {grid!r} must be exp_const, constant or optimal")


def fewest_steps(value: Callable[[int], float], eps: float, most: int = MOST_STEPS) -> tuple[int, float] | None:
    """The N of a doubling and bisecting search with value(N) <= eps, and that value; None beyond `most`."""
    high, found = 1, value(1)
    while found > eps:
        high *= 2
        if high > most:
            return None
        found = value(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        at = value(middle)
        if at <= eps:
            high, found = middle, at
        else:
            low = middle
    return high, found


def plan_steps(
    ctmc: UniformCTMC,
    eps: float,
    delta: float,
    data: DataLaw | None = None,
    by: By | None = None,
    samplers: Sequence[str] = ("paper", "midpoint", "thinning", "euler", "tweedie", "first_jump", "theta_trapezoidal"),
    grid: Grid = "exp_const",
    T: float | None = None,
) -> tuple[float, list[Plan]]:
    """T and, for every sampler, the fewest intervals and the expected calls for KL <= eps.

    Half of eps goes to the initialisation when T is chosen here.

    Args:
        ctmc: S and d.
        eps: target of KL(q_delta || generated law).
        delta: early stop; TV(p_data, q_delta) <= 1 - a_delta^d comes on top.
        data: law to plan for; None plans for every law on [S]^d.
        by: `exact` (the law itself), `certified` ((C) with the data's movement), `worst_case` (no data); the sharpest
            possible by default. Only paper and thinning have certificates.
        samplers: names.
        grid: schedule family.
        T: fixed horizon instead of the chosen one.

    Raises:
        InputError: for a wrong eps, delta, name, or a basis that needs data.
    """
    if not (math.isfinite(eps) and eps > 0):
        raise InputError(f"eps = {eps}: the target KL must be above 0")
    basis: By = by or ("exact" if data is not None else "worst_case")
    if basis != "worst_case" and data is None:
        raise InputError(f"by {basis} needs --data; without it only worst_case is possible")
    unknown = [name for name in samplers if name not in SAMPLERS]
    if unknown:
        raise InputError(f"sampler {unknown[0]!r} is none of {', '.join(SAMPLERS)}")
    if T is None:  # beyond delta, also where q_delta is close to uniform already
        check_times(LATEST, delta)
        start = max(horizon(eps / 2, ctmc if basis == "worst_case" or data is None else data), 1.1 * delta)
    else:
        start = T
    exp_const(start, delta, 1) if grid == "exp_const" else constant(start, delta, 1)  # refuses bad T and delta
    if basis == "exact":
        assert data is not None
        return start, [_exact_plan(name, data, start, delta, eps, grid) for name in samplers]
    return start, [_certified_plan(name, ctmc, data if basis == "certified" else None, start, delta, eps, grid)
                   for name in samplers]  # fmt: skip


def _exact_plan(name: str, data: DataLaw, T: float, delta: float, eps: float, grid: Grid) -> Plan:
    marginals = Marginals(data)

    def run(N: int) -> float:
        sampler = make_sampler(name, make_schedule(grid, T, delta, N, marginals))
        if isinstance(sampler, Euler):
            sampler = Euler(sampler.schedule, strict=False)
        return sampler.law(data).kl

    basis = "exact law"
    try:
        start = Thinning(constant(T, delta, 1)).law(data).kl
        if start > eps or name == "thinning":
            return _without_steps(name, data.ctmc, T, delta, eps, start, basis)
        found = fewest_steps(run, eps)
    except InputError as reason:
        return Plan(name, None, None, None, f"no exact law: {reason}")
    return _filled(name, found, data.ctmc, T, delta, basis)


def _certified_plan(
    name: str, ctmc: UniformCTMC, data: DataLaw | None, T: float, delta: float, eps: float, grid: Grid
) -> Plan:
    marginals = None if data is None else Marginals(data)
    if name not in ("paper", "uniformization", "thinning"):
        return Plan(name, None, None, None, "no certificate here for this sampler")
    start = ctmc.mixing_bound(T) if marginals is None else kl(marginals.probabilities(T), marginals.space.uniform())
    if start > eps or name == "thinning":
        return _without_steps(name, ctmc, T, delta, eps, start, "no discretisation error; mixing only")

    def run(N: int) -> float:
        schedule = make_schedule(grid, T, delta, N, marginals)
        return certified_bound(schedule, marginals or ctmc).total

    basis = "certified for this law" if marginals is not None else "certified for every law"
    return _filled(name, fewest_steps(run, eps, 2**20 if marginals is None else MOST_STEPS), ctmc, T, delta, basis)


def _without_steps(name: str, ctmc: UniformCTMC, T: float, delta: float, eps: float, start: float, basis: str) -> Plan:
    """What no number of steps changes: the error of the start, and thinning's calls, infinite at delta = 0."""
    if start > eps:
        return Plan(name, None, None, None, f"the start at T = {T:.4g} alone costs {start:.3g} > eps: raise T")
    if delta == 0:
        return Plan(name, None, None, None, "infinitely many calls at delta = 0: its envelope has no integral")
    return Plan(name, 0, ctmc.envelope_integral(delta, T), start, basis)


def _filled(name: str, found: tuple[int, float] | None, ctmc: UniformCTMC, T: float, delta: float, basis: str) -> Plan:
    if found is None:
        return Plan(name, None, None, None, f"{basis}; not reached with the most steps tried")
    calls = make_sampler(name, constant(T, delta, found[0])).expected_calls(ctmc)
    return Plan(name, found[0], calls, found[1], basis)


def stopping_for(ctmc: UniformCTMC, tv: float) -> float:
    """The largest delta with 1 - a_delta^d <= tv.

    Raises:
        InputError: unless 0 < tv < 1 - S^{-d}.
    """
    most = -math.expm1(-ctmc.d * math.log(ctmc.S))
    if not 0 < tv < most:
        raise InputError(
            f"tv = {tv}: early stopping costs above 0 and below 1 - S^-d = {most:.6g}, at which all is noise"
        )
    low, high = 0.0, 1.0
    while high < LATEST and early_stopping_tv(ctmc, high)["stay"] <= tv:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if early_stopping_tv(ctmc, middle)["stay"] <= tv else (low, middle)
    return low
