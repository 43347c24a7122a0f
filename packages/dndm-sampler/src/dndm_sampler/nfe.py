"""How many network calls a plan will need, before spending any (the paper's theorem on function evaluations)."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler.schedule import TransitionSchedule

BatchTimes = Literal["per_row", "shared", "lockstep"]
MAX_POSITIONS, MAX_STEPS = 10_000, 100_000  # of the exact law: seconds, and less than a gigabyte


class NFELaw(NamedTuple):
    """The exact law of a number of calls: P(calls = k) = pmf[k]."""

    pmf: Float[Tensor, "max_calls_plus_1"]

    @property
    def mean(self) -> float:
        """Expected number of calls."""
        return float((self.pmf * torch.arange(len(self.pmf))).sum())

    @property
    def std(self) -> float:
        """Standard deviation."""
        square = float((self.pmf * torch.arange(len(self.pmf)) ** 2).sum())
        return max(square - self.mean**2, 0.0) ** 0.5

    def quantile(self, level: float) -> int:
        """Smallest k with P(calls <= k) >= level."""
        return int((self.pmf.cumsum(0) < level - 1e-12).sum())


def expected_nfe(schedule: TransitionSchedule, num_steps: int | None, length: int) -> float:
    """E|T| = sum_t [1 - (1 - p_t)^N] for one sequence of N free positions; N where num_steps is None (continuous).

    Raises:
        InputError: if num_steps or length is below 1.
    """
    _check_length(length)
    if num_steps is None:
        return float(length)
    return float(-torch.expm1(length * torch.log1p(-schedule.pmf(num_steps))).sum())


def nfe_bound(num_steps: int, length: int) -> float:
    """T [1 - (1 - 1/T)^N]: no schedule needs more calls on average; reached by the linear one."""
    _check_length(length)
    return expected_nfe(TransitionSchedule("linear"), num_steps, length)


def nfe_distribution(
    schedule: TransitionSchedule,
    num_steps: int | None,
    length: int,
    batch_size: int = 1,
    batch_times: BatchTimes = "per_row",
) -> NFELaw:
    """The exact law of the number of network calls of a batch.

    Going down from t = T, the number of positions that move at t is Binomial(n, h_t) with the hazard
    h_t = p_t / P(tau <= t), n positions being left: a recursion over (calls so far, positions left).

    Args:
        schedule: law of the transition times.
        num_steps: T, or None for continuous times (N calls, always).
        length: N free positions of a row.
        batch_size: B rows.
        batch_times: `per_row` (each row at its own next time: the largest count of the rows), `shared` (one set of
            times for the batch) or `lockstep` (own times, all rows called at every time any of them has: B*N positions
            share one set of calls).

    Raises:
        InputError: if a size is below 1, or too large for the recursion.
    """
    _check_length(length)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    positions = length * batch_size if batch_times == "lockstep" else length
    if positions > MAX_POSITIONS or (num_steps or 1) > MAX_STEPS:
        raise InputError(
            f"the exact law of the number of calls is for up to {MAX_POSITIONS} positions and {MAX_STEPS} steps, got "
            f"{positions} and {num_steps}; num_steps=None is the limit of many steps, expected_nfe has no such limit"
        )
    if num_steps is None:
        law = torch.zeros(positions + 1, dtype=torch.float64)
        law[positions] = 1
    else:
        law = _distinct_values_law(schedule.pmf(num_steps), positions)
    if batch_times == "per_row" and batch_size > 1:
        law = (law.cumsum(0).clamp(max=1) ** batch_size).diff(prepend=law.new_zeros(1))
    return NFELaw(law)


def _distinct_values_law(pmf: Float[Tensor, "steps"], positions: int) -> Float[Tensor, "max_calls_plus_1"]:
    """Law of the number of distinct values among `positions` independent draws from `pmf`.

    Only the window of (calls, positions left) that carries mass is updated at a step; what is dropped is below 1e-18.
    """
    hazards = (pmf / pmf.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
    log_factorial = torch.lgamma(torch.arange(positions + 1, dtype=torch.float64) + 1)
    state = torch.zeros(min(positions, len(pmf)) + 1, positions + 1, dtype=torch.float64)  # [calls, positions left]
    state[0, positions] = 1
    first, last, low, high = 0, 0, positions, positions  # the window: calls first..last, positions left low..high
    for hazard in hazards.flip(0).tolist():
        if hazard == 0:
            continue
        reach = math.ceil(high * hazard + 12 * math.sqrt(high * hazard)) + 40
        bottom = max(0, low - reach)
        binomial = _binomial(log_factorial, low, bottom, high, hazard)
        window = state[first : last + 1, low : high + 1].clone()
        state[first : last + 1, low : high + 1] *= torch.diagonal(binomial, offset=low - bottom)
        torch.diagonal(binomial, offset=low - bottom).zero_()
        end = min(last + 1, len(state) - 1)
        state[first + 1 : end + 1, bottom : high + 1] += (window @ binomial)[: end - first]
        around = state[first : end + 1, bottom : high + 1]
        calls, left = ((around.sum(axis) > 1e-18).nonzero()[:, 0].tolist() for axis in (1, 0))
        first, last = first + calls[0], first + calls[-1]
        low, high = bottom + left[0], bottom + left[-1]
    return state.sum(1)


def _binomial(
    log_factorial: Float[Tensor, "n"], low: int, bottom: int, high: int, hazard: float
) -> Float[Tensor, "before after"]:
    """P(n' positions are left | n were), n = low..high, n' = bottom..high: n - n' move with probability `hazard`."""
    before = torch.arange(low, high + 1)[:, None]
    after = torch.arange(bottom, high + 1)[None, :]
    moved = (before - after).clamp(min=0)
    log_p = log_factorial[before] - log_factorial[moved] - log_factorial[after] + moved.double() * math.log(hazard)
    log_p = log_p + (
        after.double() * math.log1p(-hazard) if hazard < 1 else torch.where(after == 0, 0.0, -math.inf).double()
    )
    return torch.where(after <= before, log_p.exp(), 0.0)


def _check_length(length: int) -> None:
    if length < 1:
        raise InputError(f"length must be at least 1, got {length}")
