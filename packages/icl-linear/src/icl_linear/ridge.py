"""Bayes-optimal ridge regression and its relatives: risk, predictions, every prefix of a prompt at once.

The posterior mean of beta is ridge with penalty sigma^2 / psi^2 on the sum X^T X + (sigma^2 / psi^2) I; the penalty
does not depend on H, and per example (on the mean) it is sigma^2 / (psi^2 M).
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_count, check_length, check_positive, check_shape
from icl_linear.problem import Problem


class Estimate(NamedTuple):
    """A mean over draws and its standard error."""

    mean: float
    standard_error: float


def conditional_bayes_risk(problem: Problem, X: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch"]:
    """E [(f_ridge - y)^2 | X] = sigma^2 + sigma^2 tr(H (X^T X + sigma^2 / psi^2 I)^-1), exact over task and noise.

    Args:
        problem: the tasks.
        X: context inputs in the coordinates of the data.

    Raises:
        InputError: for inputs of another dimension.
    """
    if X.dim() < 2 or X.shape[-1] != problem.d:
        raise InputError(f"X must have shape ... x examples x {problem.d}, got {' x '.join(map(str, X.shape))}")
    X = X.to(problem.eigenvalues)
    return problem.sigma**2 + _posterior_trace(problem, X if problem.basis is None else X @ problem.basis)


def bayes_risk(problem: Problem, length: int, draws: int = 200, seed: int = 0) -> Estimate:
    """Risk of Bayes-optimal ridge with `length` context examples, averaged over their inputs only.

    Task, noise and query are integrated exactly, so a few hundred draws give three digits. With length >= d only
    X^T X matters: it is drawn by Bartlett's decomposition of the Wishart law, at a cost that does not grow with length.

    Args:
        problem: the tasks.
        length: M.
        draws: of the context inputs.
        seed: of those draws.

    Raises:
        InputError: for a length or a number of draws below 1.
    """
    length, draws = int(check_length("length", length)), check_count("draws", draws, least=2)
    generator = torch.Generator(problem.eigenvalues.device).manual_seed(seed)
    d = problem.d
    size = max(1, 20_000_000 // (min(length, d) * d))
    values = []
    for start in range(0, draws, size):
        count = min(size, draws - start)
        root = problem.eigenvalues.sqrt()
        if length >= d:
            factor = _bartlett(count, length, d, generator) * root[:, None]
            # X = factor^T has the same X^T X
            values.append(_posterior_trace(problem, factor.mT))
        else:
            X = torch.randn(count, length, d, dtype=root.dtype, device=root.device, generator=generator) * root
            values.append(_posterior_trace(problem, X))
    drawn = torch.cat(values)
    return Estimate(problem.sigma**2 + float(drawn.mean()), float(drawn.std()) / math.sqrt(draws))


def _bartlett(count: int, length: int, d: int, generator: torch.Generator) -> Float[Tensor, "count d d"]:
    """Lower triangular A with A A^T ~ Wishart(I_d, length)."""
    options: dict[str, Any] = {"dtype": torch.float64, "device": generator.device}
    A = torch.randn(count, d, d, **options, generator=generator).tril(-1)
    degrees = (length - torch.arange(d, **options)) / 2
    chi2 = 2 * torch._standard_gamma(degrees.expand(count, d).contiguous(), generator=generator)
    A.diagonal(dim1=-2, dim2=-1).copy_(chi2.sqrt())
    return A


def _posterior_trace(problem: Problem, X: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch"]:
    """tr(H Cov(beta | X, y)), by the smaller of the m x m and the d x d system."""
    penalty, (m, d) = (problem.sigma / problem.psi) ** 2, X.shape[-2:]
    if m < d:  # psi^2 (I - X^T (X X^T + penalty I)^-1 X): no division by sigma
        gram = X @ X.mT
        gram.diagonal(dim1=-2, dim2=-1).add_(penalty)
        explained = (X * problem.eigenvalues * torch.linalg.solve(gram, X)).sum((-2, -1))
        return problem.psi**2 * (problem.trace - explained)
    if problem.sigma == 0:
        return torch.zeros_like(X[..., 0, 0])
    gram = X.mT @ X
    gram.diagonal(dim1=-2, dim2=-1).add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return problem.sigma**2 * (inverse.diagonal(dim1=-2, dim2=-1) * problem.eigenvalues).sum(-1)


def ridge_coefficients(
    X: Float[Tensor, "*batch m d"], y: Float[Tensor, "*batch m"], penalty: float
) -> Float[Tensor, "*batch d"]:
    """(X^T X + penalty I)^-1 X^T y.

    Raises:
        InputError: for a negative penalty, or none with fewer examples than dimensions.
    """
    check_positive("penalty", penalty, zero=True)
    if penalty == 0 and X.shape[-2] < X.shape[-1]:
        raise InputError(f"a penalty above 0 is needed with {X.shape[-2]} examples in {X.shape[-1]} dimensions")
    gram = X.mT @ X
    gram.diagonal(dim1=-2, dim2=-1).add_(penalty)
    return torch.linalg.solve(gram, (X.mT @ y[..., None]))[..., 0]


def prefix_ridge(
    X: Float[Tensor, "batch n d"],
    y: Float[Tensor, "batch n"],
    penalty: float,
    method: Literal["auto", "recursive", "cholesky"] = "auto",
) -> Float[Tensor, "batch n"]:
    """Ridge prediction of every label from the examples before it: entry i is fitted on examples 0..i-1.

    `recursive` is recursive least squares, a rank-1 update of (X^T X + penalty I)^-1 for each example, O(n d^2).
    `cholesky` reads all predictions off one factor: with L L^T = X X^T + penalty I, y_i - L_ii (L^-1 y)_i, O(n^3).
    `auto` takes the cheaper.

    Raises:
        InputError: for shapes that do not fit or a penalty that is not above 0.
    """
    if X.dim() != 3:
        raise InputError(f"X must have shape batch x n x d, got {' x '.join(map(str, X.shape))}")
    check_shape("y", y, tuple(X.shape[:2]))
    check_positive("penalty", penalty)
    n, d = X.shape[1:]
    if method == "cholesky" or (method == "auto" and n <= 4 * d):
        gram = torch.baddbmm(penalty * torch.eye(n).to(X), X, X.mT)
        factor = torch.linalg.cholesky(gram)
        innovations = torch.linalg.solve_triangular(factor, y[..., None], upper=False)[..., 0]
        return y - factor.diagonal(dim1=-2, dim2=-1) * innovations
    P = (torch.eye(d).to(X) / penalty).expand(len(X), d, d).clone()
    beta = torch.zeros(len(X), d, 1).to(X)
    predictions = torch.empty_like(y)
    for i in range(n):
        row = X[:, i : i + 1]
        Px = torch.bmm(P, row.mT)
        predictions[:, i] = torch.bmm(row, beta)[:, 0, 0]
        gain = Px / (1 + torch.bmm(row, Px))
        beta.baddbmm_(gain, (y[:, i] - predictions[:, i])[:, None, None])
        P.baddbmm_(gain, Px.mT, alpha=-1)
    return predictions


def prefix_dmmse(
    X: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"], pool: Float[Tensor, "tasks d"], sigma: float
) -> Float[Tensor, "batch n"]:
    """Bayes-optimal prediction of every label from those before it when tasks come from a finite, equally likely pool.

    The log likelihood is cumulative, so all prefixes cost one pass.

    Raises:
        InputError: if sigma is not above 0.
    """
    check_positive("sigma", sigma)
    means = X @ pool.mT.to(X)
    terms = -((y[..., None] - means) ** 2) / (2 * sigma**2)
    before = terms.cumsum(1) - terms
    return (before.softmax(-1) * means).sum(-1)
