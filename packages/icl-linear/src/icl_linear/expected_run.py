"""Exact learning curves: expected excess risk of one-pass SGD, at the trained and at any other context length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from shared_core.device import one_thread
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.attention_risk import risk
from icl_linear.checks import check_count, check_length, check_shape
from icl_linear.problem import Problem
from icl_linear.schedule import Schedule
from icl_linear.sgd_recursion import Recursion, State, first_of_each

# Up to this many distinct eigenvalues one thread is quicker than several.
SMALL = 256


@dataclass(frozen=True, eq=False)
class ExpectedRun:
    """Expected SGD at the recorded numbers of tasks.

    Attributes:
        tasks: recorded steps t.
        excess: E R_N(Gamma_t) - min R_N, `inf` where the run has diverged.
        states: the moments at those steps.
    """

    problem: Problem
    context: int
    recursion: Recursion
    tasks: tuple[int, ...]
    excess: Float[Tensor, records]
    states: list[State] = field(repr=False)

    def excess_at(self, length: float) -> Float[Tensor, records]:
        """E R_M(Gamma_t) - sigma^2 with M = `length` context examples at test time (M may differ from N).

        E (x^T Gamma v)^2 needs E Gamma_ij^2 = S_ij + [i = j](2 g_i D_i + g_i^2), and Gamma* is diagonal.
        """
        problem, recursion = self.problem, self.recursion
        h_tilde = problem.h_tilde(length)[first_of_each(recursion.groups, len(recursion.eigenvalues))]
        weights = recursion.eigenvalues[:, None] * h_tilde
        base = risk(problem, problem.gamma_star(self.context), length) - problem.sigma**2
        slope = 2 * recursion.sizes * recursion.eigenvalues * (h_tilde * recursion.star)
        slope = slope - 2 * problem.psi**2 * recursion.sizes * recursion.eigenvalues**2
        values = [recursion.weigh(state, weights)[0] + slope @ state.mean[0] + base for state in self.states]
        return _infinite_for_nan(torch.stack(values))

    def second_moments(self, index: int = -1) -> Float[Tensor, "d d"]:
        """E Delta_ij^2 in the eigenbasis, d x d."""
        state, groups = self.states[index], self.recursion.groups
        full = state.pair[0][groups][:, groups].clone()
        full.diagonal().copy_(state.same[0][groups])
        return full


def expected_sgd(
    problem: Problem,
    context: int,
    schedule: Schedule,
    *,
    init: Float[Tensor, d] | Float[Tensor, "d d"] | None = None,
    batch_size: int = 1,
    record: Sequence[int] | None = None,
    grouped: bool = True,
) -> ExpectedRun:
    """Exact expected excess risk of one-pass SGD on linear attention, over all its randomness.

    Args:
        problem: the tasks.
        context: number N of context examples in each pretraining prompt.
        schedule: step sizes, one fresh task (or `batch_size` of them) each.
        init: Gamma_0, zero by default: diagonal in the eigenbasis (d,), or any matrix (d, d) in data coordinates.
        batch_size: tasks averaged in each step.
        record: steps at which to record, 0..T; only T by default.
        grouped: share moments among equal eigenvalues where the start allows it.

    Raises:
        InputError: for a context below 1, a Gamma_0 of another shape, a recorded step outside 0..T.
    """
    context = int(check_length("context", context))
    recursion, state = _start(problem, context, batch_size, init, grouped)
    wanted = sorted({schedule.steps} if record is None else {check_count("record", t, least=0) for t in record})
    if wanted and wanted[-1] > schedule.steps:
        raise InputError(f"record must lie in 0..{schedule.steps}, the schedule's steps; got {wanted[-1]}")
    states, now = [], 0
    with one_thread(len(recursion.eigenvalues) <= SMALL):
        for gamma, count in schedule.phases:
            end = now + count
            for target in [t for t in wanted if now <= t < end]:
                state = recursion.advance(state, gamma, target - now)
                states.append(state)
                now = target
            state, now = recursion.advance(state, gamma, end - now), end
    states += [state] * (len(wanted) - len(states))
    excess = torch.stack([recursion.weigh(state, recursion.W)[0] for state in states])
    return ExpectedRun(problem, context, recursion, tuple(wanted), _infinite_for_nan(excess), states)


def _start(
    problem: Problem, context: int, batch_size: int, init: Tensor | None, grouped: bool
) -> tuple[Recursion, State]:
    if init is None:
        recursion = Recursion(problem, context, batch_size, grouped)
        return recursion, State(torch.zeros_like(recursion.W)[None], recursion.star[None] ** 2, -recursion.star[None])
    init = torch.as_tensor(init, dtype=torch.float64, device=problem.eigenvalues.device)
    star = problem.gamma_star(context)
    if init.dim() == 1:
        Delta = torch.diag(check_shape("init", init, (problem.d,)) - star)
    else:
        Delta = problem.in_eigenbasis(check_shape("init", init, (problem.d, problem.d))) - torch.diag(star)
    recursion = Recursion(problem, context, batch_size, grouped=False)
    diagonal = Delta.diagonal()
    return recursion, State(Delta[None] ** 2, diagonal[None] ** 2, diagonal[None].clone())


def _infinite_for_nan(values: Tensor) -> Tensor:
    # inf - inf of a run that has diverged
    return torch.where(torch.isfinite(values), values, torch.inf)
