"""One-pass SGD on linear attention (paper: section 2), many runs at once and many steps at a time.

e_t = f_{Gamma_{t-1}}(X_t, y_t, x_t) - y_t,   Gamma_t = Gamma_{t-1} - gamma_t e_t x_t v_t^T   (the gradient of e^2 / 2).
"""

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_count, check_length, check_shape
from icl_linear.problem import Problem
from icl_linear.sampling import Statistics, sample_statistics
from icl_linear.schedule import Schedule


def sgd_steps(
    gamma: Float[Tensor, "runs d d"],
    tasks: Statistics,
    step_sizes: Float[Tensor, "steps"],
    batch_size: int = 1,
) -> Float[Tensor, "runs d d"]:
    """Exactly the iterates of sequential SGD, a block of steps in three matrix products and a triangular solve.

    Task t meets Gamma_0 - sum_{s<t} gamma_s e_s x_s v_s^T, so its error is
    e_t = x_t^T Gamma_0 v_t - y_t - sum_{s<t} gamma_s (x_t . x_s)(v_t . v_s) e_s: a unit lower triangular system in e.
    It costs O(block d) a step beside the O(d^2) of a rank-1 update, and no call per step.

    Args:
        gamma: Gamma before the block, one for each run.
        tasks: v and x of shape (runs, steps * batch_size, d), y of shape (runs, steps * batch_size), in order.
        step_sizes: gamma_t.
        batch_size: tasks averaged in each step.
    """
    v, x, y = tasks.v, tasks.x, tasks.y
    weights = step_sizes.to(v) / batch_size
    if batch_size > 1:
        weights = weights.repeat_interleave(batch_size)
    coupling = (x @ x.mT).mul_(v @ v.mT).mul_(weights)
    if (
        batch_size > 1
    ):  # tasks of one step all meet the same Gamma; beyond that, the solve reads the lower triangle only
        step = torch.arange(len(weights), device=v.device) // batch_size
        coupling *= step[:, None] > step
    errors = (x @ gamma).mul_(v).sum(-1).sub_(y)
    errors = torch.linalg.solve_triangular(coupling, errors[..., None], upper=False, unitriangular=True)
    return torch.baddbmm(gamma, (x * weights[:, None] * errors).mT, v, alpha=-1)


def sgd(
    problem: Problem,
    context: int,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    runs: int = 1,
    batch_size: int = 1,
    init: Float[Tensor, "d d"] | None = None,
    block: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "runs d d"]:
    """Pretrain by one-pass SGD on fresh Gaussian tasks: Gamma_T of independent runs, in the coordinates of the data.

    Args:
        problem: the tasks.
        context: N, examples in each prompt.
        schedule: step sizes.
        generator: source of randomness; its device is where everything happens.
        runs: independent runs.
        batch_size: tasks averaged in each step.
        init: Gamma_0, zero by default, in the coordinates of the data.
        block: steps solved at a time (the result does not depend on it but for rounding and the order of draws).
        dtype: float32 is enough here.

    Raises:
        InputError: for a context, runs or batch_size below 1, or a Gamma_0 of another shape.
    """
    context, runs, batch_size = (
        int(check_length("context", context)),
        check_count("runs", runs),
        check_count("batch_size", batch_size),
    )
    gamma = _initial(problem, init, runs, dtype, generator.device)
    steps = block or max(1, 128 // batch_size)
    phases = [torch.full((count,), size, dtype=dtype, device=generator.device) for size, count in schedule.phases]
    sizes = torch.cat(phases)
    # Draw for many blocks at once: small random calls cost more than the numbers they return.
    drawn = max(1, 2_000_000 // (runs * batch_size * steps * problem.d))
    for start in range(0, schedule.steps, steps * drawn):
        part = sizes[start : start + steps * drawn]
        tasks = sample_statistics(problem, context, (runs, len(part) * batch_size), generator, dtype)
        gamma = run_sgd(gamma, tasks, part, batch_size, steps)
    return problem.to_data(gamma)


def run_sgd(
    gamma: Float[Tensor, "runs d d"],
    tasks: Statistics,
    step_sizes: Float[Tensor, "steps"],
    batch_size: int = 1,
    block: int = 128,
) -> Float[Tensor, "runs d d"]:
    """SGD over given tasks, in the coordinates in which they are given.

    Args:
        gamma: Gamma_0.
        tasks: v and x of shape (runs, steps * batch_size, d), y of shape (runs, steps * batch_size).
        step_sizes: gamma_t.
        batch_size: tasks averaged in each step.
        block: steps solved at a time.

    Raises:
        InputError: if the numbers of tasks and steps do not fit.
    """
    runs, d = gamma.shape[0], gamma.shape[-1]
    total = len(step_sizes) * batch_size
    for name, tensor, shape in (
        ("v", tasks.v, (runs, total, d)),
        ("x", tasks.x, (runs, total, d)),
        ("y", tasks.y, (runs, total)),
    ):
        check_shape(f"tasks.{name}", tensor, shape)
    for start in range(0, len(step_sizes), block):
        steps = slice(start, start + block)
        rows = slice(start * batch_size, (start + block) * batch_size)
        part = Statistics(tasks.v[:, rows], tasks.x[:, rows], tasks.y[:, rows])
        gamma = sgd_steps(gamma, part, step_sizes[steps], batch_size)
    return gamma


def empirical_risk_minimiser(tasks: Statistics, ridge: float = 0.0) -> Float[Tensor, "d d"]:
    """Best Gamma for T given prompts, min sum (x^T Gamma v - y)^2 + ridge |Gamma|^2: what T tasks can give at most.

    f is linear in Gamma with features x (x) v. Without ridge and with T < d^2 it is the interpolator of least norm.

    Raises:
        InputError: for a negative ridge, or more than 10^8 entries of the system that would have to be solved.
    """
    if ridge < 0:
        raise InputError(f"ridge must be at least 0, got {ridge}")
    v, x, y = tasks.v, tasks.x, tasks.y
    count, d = v.shape
    if min(count, d * d) ** 2 > 10**8:
        raise InputError(f"{count} tasks in dimension {d} are too many for an exact minimiser; use sgd")
    if count <= d * d:
        kernel = (x @ x.mT) * (v @ v.mT)
        kernel.diagonal().add_(ridge)
        weights = torch.linalg.lstsq(kernel, y[:, None], driver="gelsd" if v.device.type == "cpu" else None).solution
        return (x * weights).mT @ v
    features = (x[:, :, None] * v[:, None, :]).flatten(1)
    system = features.mT @ features
    system.diagonal().add_(ridge)
    return torch.linalg.solve(system, features.mT @ y).reshape(d, d)


def _initial(
    problem: Problem, init: Tensor | None, runs: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "runs d d"]:
    if init is None:
        return torch.zeros(runs, problem.d, problem.d, dtype=dtype, device=device)
    init = problem.in_eigenbasis(check_shape("init", init, (problem.d, problem.d)).to(device=device, dtype=dtype))
    return init.expand(runs, -1, -1).clone()
