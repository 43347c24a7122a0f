"""The largest step size that pretraining survives."""

import torch
from shared_core.errors import InputError

from icl_linear.checks import check_length, check_positive
from icl_linear.problem import Problem
from icl_linear.sgd_recursion import Recursion, State


def max_stable_step(problem: Problem, context: int, batch_size: int = 1, tolerance: float = 1e-10) -> float:
    """Largest constant step for which the expected excess risk stays bounded.

    The map of S is S - (2 gamma W - gamma^2 R) S with R >= 0 entrywise and W > 0: a regular splitting, so its spectral
    radius is below 1 exactly where gamma rho(W^-1 R) < 2. rho is found by power iteration, whose smallest and largest
    entry ratios enclose it (Collatz and Wielandt).

    Raises:
        InputError: for a context or batch_size below 1.
    """
    recursion = Recursion(problem, int(check_length("context", context)), batch_size)
    W, w, keep = recursion.W, recursion.W.diagonal(), 1 - 1 / recursion.batch_size
    state = State(torch.ones_like(W)[None], torch.ones_like(w)[None], torch.zeros_like(w)[None])
    ratio = 0.0
    for _ in range(10_000):
        pair, same = recursion.second_moment(state, noise=0.0)
        pair = pair / (recursion.batch_size * W) + keep * W * state.pair
        same = same / (recursion.batch_size * w) + keep * w * state.same
        growth = torch.cat([(pair / state.pair).flatten(), (same / state.same).flatten()])
        ratio = float(growth.max())
        if ratio - float(growth.min()) <= tolerance * ratio:
            break
        state = State(pair / same.max(), same / same.max(), state.mean)
    return 2 / ratio


def step_for(problem: Problem, context: int, learning_rate: float | None, batch_size: int = 1) -> float:
    """The step size gamma_0 to use: half the largest stable one by default.

    Raises:
        InputError: for a step beyond the largest stable one, which it states.
    """
    largest = max_stable_step(problem, context, batch_size)
    if learning_rate is None:
        return largest / 2
    if check_positive("learning_rate", learning_rate) > largest:
        raise InputError(
            f"learning_rate {learning_rate:g} is unstable: the expected excess risk grows without end;"
            f" the largest stable step here is {largest:.6g}"
        )
    return learning_rate
