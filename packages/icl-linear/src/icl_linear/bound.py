"""The task-complexity bound and the rates of ridge and attention, term by term.

The theorems hide their constants; every function here returns the bound with constant 1, to be shown beside the exact
value. They are stated from the public record of the paper, whose full text was not at hand.
"""

from dataclasses import dataclass

import torch
from shared_core.errors import InputError

from icl_linear.checks import check_length, check_positive
from icl_linear.problem import Problem
from icl_linear.schedule import Schedule


@dataclass(frozen=True)
class TaskBound:
    """The right-hand side of the task-complexity theorem.

    Attributes:
        effective_dimension: D_eff, at most d^2.
        effective_tasks: T_eff = T / log T.
        bias: what of Gamma_0 - Gamma* is left.
        variance: (psi^2 tr H + sigma^2) D_eff / T_eff.
    """

    effective_dimension: float
    effective_tasks: float
    bias: float
    variance: float

    @property
    def total(self) -> float:
        """Bias plus variance."""
        return self.bias + self.variance


def effective_dimension(problem: Problem, context: int, effective_tasks: float, gamma0: float) -> float:
    """D_eff = sum_ij min(1, T_eff^2 gamma_0^2 lambda_i^2 ltil_j^2): how many of the d^2 parameters T tasks can move."""
    check_positive("effective_tasks", effective_tasks)
    scale = effective_tasks * check_positive("gamma0", gamma0)
    left, left_count = torch.unique(problem.eigenvalues, return_counts=True)
    right, right_count = torch.unique(problem.h_tilde(context), return_counts=True)
    moved = (scale * left[:, None] * right).square().clamp(max=1)
    return float(left_count.double() @ moved @ right_count.double())


def task_bound(problem: Problem, context: int, schedule: Schedule, start: float = 0.0) -> TaskBound:
    """The bound on E R_N(Gamma_T) - min R_N for Gamma_0 = start * I and one task a step.

    <H Htil, (prod_t (I - gamma_t H Htil) (Gamma_0 - Gamma*))^2> + (psi^2 tr H + sigma^2) D_eff / T_eff

    Args:
        problem: the tasks.
        context: N.
        schedule: step sizes; the theorem is about the geometric one with gamma_0 <= 1 / (c tr(H) tr(Htil_N)).
        start: Gamma_0 is this multiple of the identity (it has to commute with H).

    Raises:
        InputError: for a schedule without a positive step.
    """
    context = int(check_length("context", context))
    gamma0 = max(gamma for gamma, _ in schedule.phases)
    if gamma0 <= 0:
        raise InputError("the schedule has no step above 0")
    weights = problem.eigenvalues * problem.h_tilde(context)
    left = start - problem.gamma_star(context)
    for gamma, count in schedule.phases:
        left = left * (1 - gamma * weights) ** count
    d_eff = effective_dimension(problem, context, schedule.effective_steps, gamma0)
    variance = problem.zero_risk * d_eff / schedule.effective_steps
    return TaskBound(d_eff, schedule.effective_steps, float(weights @ left**2), variance)


def theorem_step(problem: Problem, context: int, c: float = 10.0) -> float:
    """The theorem's step size 1 / (c tr(H) tr(Htil_N)); c is not known, 10 is stable on every spectrum tried."""
    return 1 / (check_positive("c", c) * problem.trace * float(problem.h_tilde(context).sum()))


def ridge_rate(problem: Problem, length: int) -> float:
    """Rate of Bayes-optimal ridge above sigma^2: psi^2 sum_i min(mu_M, lambda_i), mu_M = sigma^2 / (psi^2 M).

    Stated for psi^2 tr H at most of the order of sigma^2.
    """
    mu = problem.sigma**2 / (problem.psi**2 * check_length("length", length))
    return problem.psi**2 * float(problem.eigenvalues.clamp(max=mu).sum())


def attention_rate(problem: Problem, trained: int, tested: int) -> float:
    """Rate of attention trained at N and tested at M above sigma^2: ridge's, plus the price of the mismatch.

    psi^2 (mu_M - mu_N)^2 sum_i min(lambda_i / mu_N^2, 1 / lambda_i) min(lambda_i / mu_M, 1)

    Raises:
        InputError: if sigma is 0.
    """
    level = check_positive("sigma", problem.sigma) ** 2 / problem.psi**2
    at_trained, at_tested = level / check_length("trained", trained), level / check_length("tested", tested)
    lam = problem.eigenvalues
    price = torch.minimum(lam / at_trained**2, 1 / lam) * (lam / at_tested).clamp(max=1)
    return ridge_rate(problem, tested) + problem.psi**2 * (at_tested - at_trained) ** 2 * float(price.sum())


def bayes_factor(problem: Problem) -> float:
    """What attention's risk over the noise is at most, as a multiple of Bayes', at every N = M.

    1 + psi^2 (tr H + lambda_1) / sigma^2, at most 1 + 2 psi^2 tr H / sigma^2: it depends on neither N nor d. Our proof:
    Bayes' risk over the noise is at least sigma^2 sum lambda / (N lambda + sigma^2 / psi^2) (Jensen: the inverse is
    convex), and attention's exceeds that by at most this factor in every direction.

    Raises:
        InputError: if sigma is 0.
    """
    noise = check_positive("sigma", problem.sigma) ** 2
    return 1 + problem.psi**2 * (problem.trace + float(problem.eigenvalues.max())) / noise


def bayes_factor_limit(problem: Problem) -> float:
    """Attention's risk over the noise divided by Bayes' as N = M grows: 1 + (psi^2 tr H / sigma^2) (1 + 1 / d).

    N times the former tends to psi^2 (d + 1) tr H + d sigma^2, N times the latter to d sigma^2.

    Raises:
        InputError: if sigma is 0.
    """
    return 1 + problem.psi**2 * problem.trace / check_positive("sigma", problem.sigma) ** 2 * (1 + 1 / problem.d)
