"""How many pretraining tasks a target excess risk needs, by the exact learning curve."""

from collections.abc import Callable
from dataclasses import dataclass

from shared_core.errors import InputError, RunError

from icl_linear.attention_risk import excess_risk
from icl_linear.bound import task_bound
from icl_linear.checks import check_count, check_positive
from icl_linear.expected_run import expected_sgd
from icl_linear.problem import Problem
from icl_linear.schedule import make_schedule
from icl_linear.stable_step import max_stable_step


@dataclass(frozen=True)
class Plan:
    """Tasks needed.

    Attributes:
        tasks: smallest number found whose expected excess risk is at most the target.
        excess: expected excess risk with that many.
        target: what was asked.
        start: excess risk of the untrained model, Gamma = 0.
        learning_rate: gamma_0.
        bound: the theorem's right-hand side (constant 1) at that many tasks.
        effective_dimension: D_eff there.
        parameters: d^2.
        tried: (tasks, excess) of every run of the search, in order of tasks.
    """

    tasks: int
    excess: float
    target: float
    start: float
    learning_rate: float
    bound: float
    effective_dimension: float
    parameters: int
    tried: tuple[tuple[int, float], ...]


def tasks_needed(
    problem: Problem,
    context: int,
    target: float,
    *,
    schedule: str = "geometric",
    learning_rate: float | None = None,
    batch_size: int = 1,
    most: int = 1_000_000,
    precision: float = 0.02,
) -> Plan:
    """Smallest number of steps T whose exact expected excess risk is at most `target`.

    T doubles until the target is met, then is bisected; every T is a run of its own, because the paper's schedule
    depends on T.

    Args:
        problem: the tasks.
        context: N, examples in each pretraining prompt.
        target: excess risk over the best attention model of that length.
        schedule: see `make_schedule`.
        learning_rate: gamma_0; half the largest stable step by default.
        batch_size: tasks in each step (`tasks` counts them all).
        most: give up beyond this many steps.
        precision: relative width at which the bisection stops.

    Raises:
        InputError: for a target that is not above 0, or not below the untrained model's excess risk.
        RunError: if `most` steps do not reach it (says how far they get), or the step size is unstable.
    """
    check_positive("target", target)
    check_count("most", most, least=2)
    learning_rate = learning_rate or max_stable_step(problem, context, batch_size) / 2
    start = float(excess_risk(problem, 0 * problem.eigenvalues, context))
    if start <= target:
        raise InputError(
            f"the target {target:g} is met without pretraining: the untrained model's excess is {start:.4g}"
        )
    tried: dict[int, float] = {}

    def excess(steps: int) -> float:
        if steps not in tried:
            run = expected_sgd(problem, context, make_schedule(schedule, learning_rate, steps), batch_size=batch_size)
            tried[steps] = float(run.excess[-1])
        return tried[steps]

    steps = _search(excess, target, most, precision)
    if steps is None:
        last = max(tried)
        raise RunError(
            f"an excess risk of {target:g} needs more than {last} steps of size {learning_rate:.3g}: they reach"
            f" {tried[last]:.4g} (untrained {start:.4g}); raise the limit or the target"
        )
    bound = task_bound(problem, context, make_schedule(schedule, learning_rate, steps))
    return Plan(
        steps * batch_size,
        tried[steps],
        target,
        start,
        learning_rate,
        bound.total,
        bound.effective_dimension,
        problem.d**2,
        tuple(sorted(tried.items())),
    )


def _search(excess: Callable[[int], float], target: float, most: int, precision: float) -> int | None:
    """Doubling, then bisection; None where `most` is not enough. The curve may wiggle at the schedule's roundings."""
    high = 2
    while excess(high) > target:
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high > 2 and high - low > max(1, precision * high):
        middle = (low + high) // 2
        low, high = (low, middle) if excess(middle) <= target else (middle, high)
    return high
