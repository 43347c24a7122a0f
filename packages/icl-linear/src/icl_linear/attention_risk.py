"""Risk of linear attention in closed form, for any Gamma and any number of context examples (paper: section 2).

The model is one preconditioned gradient step, f(X, y, x) = x^T Gamma v with v = X^T y / n. A `gamma` of shape (d,) is
diagonal in the eigenbasis of H; one of shape (d, d) is in the coordinates of the data, and
(runs, d, d) is many at once. Every risk includes sigma^2.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_length, check_positive, check_shape
from icl_linear.problem import Problem


def risk(
    problem: Problem, gamma: Float[Tensor, "d"] | Float[Tensor, "*runs d d"], length: float
) -> Float[Tensor, "*runs"]:
    """E (f - y)^2 with `length` context examples (1..infinity).

    sigma^2 + psi^2 tr H - 2 psi^2 tr(H Gamma H) + tr(H Gamma Htil Gamma^T)

    Raises:
        InputError: for a length below 1 or a gamma of another shape.
    """
    eigenvalues, h_tilde = problem.eigenvalues, problem.h_tilde(length)
    gamma = _as_gamma(problem, gamma)
    if gamma.dim() == 1:
        linear, quadratic = eigenvalues**2 @ gamma, (eigenvalues * h_tilde) @ gamma**2
    else:
        linear = gamma.diagonal(dim1=-2, dim2=-1) @ eigenvalues**2
        quadratic = eigenvalues @ gamma**2 @ h_tilde
    return problem.zero_risk - 2 * problem.psi**2 * linear + quadratic


def minimal_risk(problem: Problem, length: float) -> Float[Tensor, ""]:
    """Risk of Gamma*_length: sigma^2 + psi^2 tr((I - Gamma* H) H)."""
    eigenvalues, precision = problem.eigenvalues, problem.precision(length)
    # 1 - lambda / D without cancellation: D - lambda = (tr H + sigma^2 / psi^2 + lambda) / n
    rest = (problem.trace + (problem.sigma / problem.psi) ** 2 + eigenvalues) / length
    return problem.sigma**2 + problem.psi**2 * (eigenvalues * rest / precision).sum()


def excess_risk(
    problem: Problem, gamma: Float[Tensor, "d"] | Float[Tensor, "*runs d d"], length: float
) -> Float[Tensor, "*runs"]:
    """Risk above the best attention model of that length: <H, (Gamma - Gamma*) Htil (Gamma - Gamma*)^T>."""
    gamma = _as_gamma(problem, gamma)
    star, h_tilde = problem.gamma_star(length), problem.h_tilde(length)
    if gamma.dim() == 1:
        return (problem.eigenvalues * h_tilde) @ (gamma - star) ** 2
    return problem.eigenvalues @ (gamma - torch.diag(star)) ** 2 @ h_tilde


def mismatch_excess(problem: Problem, trained: float, tested: float) -> Float[Tensor, ""]:
    """Price of another context length: R_M(Gamma*_N) - R_M(Gamma*_M) for N = `trained`, M = `tested`.

    psi^2 sum_i lambda_i^2 (D_M,i - D_N,i)^2 / (D_N,i^2 D_M,i) with D = 1 / Gamma*.
    """
    at_trained, at_tested = problem.precision(trained), problem.precision(tested)
    level = problem.trace + (problem.sigma / problem.psi) ** 2
    difference = (1 / tested - 1 / trained) * (level + problem.eigenvalues)
    return problem.psi**2 * (problem.eigenvalues**2 * difference**2 / (at_trained**2 * at_tested)).sum()


def conditional_risk(
    problem: Problem, gamma: Float[Tensor, "d"] | Float[Tensor, "d d"], X: Float[Tensor, "*batch m d"]
) -> Float[Tensor, "*batch"]:
    """E [(f - y)^2 | X], exact over task, noise and query, for given test inputs in the coordinates of the data.

    With Sig = X^T X / m: sigma^2 + psi^2 tr(H (Gamma Sig - I)(Gamma Sig - I)^T) + sigma^2 / m tr(H Gamma Sig Gamma^T).

    Raises:
        InputError: if X has another last dimension than the problem, or Gamma another shape.
    """
    if X.dim() < 2 or X.shape[-1] != problem.d:
        raise InputError(f"X must have shape ... x examples x {problem.d}, got {' x '.join(map(str, X.shape))}")
    gamma = _as_gamma(problem, gamma)
    dense = torch.diag(gamma) if gamma.dim() == 1 else gamma
    X = X.to(dense) if problem.basis is None else X.to(dense) @ problem.basis.to(dense)
    m = check_length("the rows of X", X.shape[-2])
    product = dense @ (X.mT @ X / m)
    bias = (product - torch.eye(problem.d).to(dense)) ** 2
    variance = product * dense
    weights = problem.eigenvalues.to(dense)
    return (
        problem.sigma**2
        + problem.psi**2 * (weights @ bias).sum(-1)
        + problem.sigma**2 / m * (weights @ variance).sum(-1)
    )


def variable_length_optimum(problem: Problem, weights: Mapping[int, float]) -> Float[Tensor, "d"]:
    """Optimal Gamma when the number of context examples is drawn: psi^2 H (sum_n weight_n Htil_n)^-1, its eigenvalues.

    Args:
        problem: the tasks.
        weights: probability (up to scale) of every context length.

    Raises:
        InputError: for no length, a length below 1 or a weight that is not above 0.
    """
    if not weights:
        raise InputError("weights must name at least one context length")
    total = sum(check_positive(f"the weight of length {n}", weight) for n, weight in weights.items())
    mean = sum((weight / total * problem.precision(n) for n, weight in weights.items()), torch.zeros(()).double())
    return 1 / mean


def infinite_context_floor(problem: Problem, trained: float) -> Float[Tensor, ""]:
    """Risk over the noise that Gamma*_N keeps as test examples grow: psi^2 sum lambda (1 - g lambda)^2."""
    return risk(problem, problem.gamma_star(trained), math.inf) - problem.sigma**2


def _as_gamma(problem: Problem, gamma: Tensor) -> Tensor:
    gamma = torch.as_tensor(gamma, dtype=torch.float64, device=problem.eigenvalues.device)
    if gamma.dim() == 1:
        return check_shape("gamma", gamma, (problem.d,))
    leading = (None,) * max(gamma.dim() - 2, 0)
    return problem.in_eigenbasis(check_shape("gamma", gamma, (*leading, problem.d, problem.d)))
