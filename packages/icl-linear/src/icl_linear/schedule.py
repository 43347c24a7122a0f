"""Step sizes of one-pass SGD as constant phases: the paper's geometric decay, other usual ones, or given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from shared_core.errors import InputError

from icl_linear.checks import check_count, check_positive


@dataclass(frozen=True)
class Schedule:
    """Consecutive (step size, number of steps)."""

    phases: tuple[tuple[float, int], ...]

    @property
    def steps(self) -> int:
        """T."""
        return sum(count for _, count in self.phases)

    def step_sizes(self) -> list[float]:
        """The T step sizes one by one."""
        return [gamma for gamma, count in self.phases for _ in range(count)]

    @property
    def effective_steps(self) -> float:
        """T / log2 T, the T_eff of the task-complexity bound (T itself below 2)."""
        return self.steps / math.log2(self.steps) if self.steps > 2 else float(self.steps)


def geometric(gamma0: float, steps: int) -> Schedule:
    """The paper's decay: gamma_t = gamma_0 / 2^l, l = floor(t / (T / log2 T)), t = 0..T-1.

    Raises:
        InputError: for fewer than 2 steps (log T must be above 0) or a step that is not above 0.
    """
    steps = check_count("the number of tasks of a geometric schedule", steps, least=2)
    gamma0 = check_positive("the step size", gamma0)
    length = steps / math.log2(steps)
    bounds = [0]
    while bounds[-1] < steps:
        level = math.floor(bounds[-1] / length)
        bound = max(bounds[-1] + 1, math.ceil((level + 1) * length))
        # The rule is in terms of floor: settle the boundary with it, not with the rounding of a product.
        while bound - 1 > bounds[-1] and math.floor((bound - 1) / length) > level:
            bound -= 1
        while bound < steps and math.floor(bound / length) == level:
            bound += 1
        bounds.append(min(bound, steps))
    return Schedule(
        tuple((gamma0 * 2.0 ** -math.floor(start / length), end - start) for start, end in pairwise(bounds))
    )


def constant(gamma0: float, steps: int) -> Schedule:
    """The same step throughout."""
    return Schedule(((check_positive("the step size", gamma0), check_count("the number of tasks", steps)),))


def polynomial(gamma0: float, steps: int, power: float = 0.5) -> Schedule:
    """gamma_0 / (t + 1)^power."""
    gamma0 = check_positive("the step size", gamma0)
    return explicit([gamma0 / (t + 1) ** power for t in range(check_count("the number of tasks", steps))])


def linear(gamma0: float, steps: int) -> Schedule:
    """gamma_0 (1 - t / T): what transformers are usually trained with."""
    gamma0, steps = check_positive("the step size", gamma0), check_count("the number of tasks", steps)
    return explicit([gamma0 * (1 - t / steps) for t in range(steps)])


def explicit(step_sizes: Sequence[float]) -> Schedule:
    """Given step sizes, one for each task.

    Raises:
        InputError: for none, or one that is negative or not finite.
    """
    if not len(step_sizes):
        raise InputError("step_sizes must hold at least one step")
    checked = [check_positive("a step size", float(gamma), zero=True) for gamma in step_sizes]
    return Schedule(tuple((gamma, len(list(same))) for gamma, same in groupby(checked)))


def make_schedule(kind: str, gamma0: float, steps: int) -> Schedule:
    """A schedule by name: `geometric`, `constant`, `linear`, `poly` or `poly:POWER`.

    Raises:
        InputError: for another name.
    """
    name, _, parameter = kind.partition(":")
    makers = {"geometric": geometric, "constant": constant, "linear": linear}
    if kind in makers:
        return makers[kind](gamma0, steps)
    if name == "poly":
        try:
            return polynomial(gamma0, steps, float(parameter or 0.5))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
    raise InputError(f"schedule must be geometric, constant, linear, poly or poly:POWER, got {kind!r}")
