"""Moments of the prompt statistic v = X^T y / n under Gaussian data, in closed form.

Given beta, v = (u H beta + tau sqrt(u) z) / n with tau^2 = beta^T H beta + sigma^2, u ~ chi^2_n and
z ~ N(0, H - H beta beta^T H / tau^2); Wick's formula then gives the fourth moments below. In the eigenbasis every
moment table is (k's factor) times (1, 2, 3)-th powers of eigenvalue j, plus a diagonal.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from icl_linear.checks import check_length
from icl_linear.problem import Problem


@dataclass(frozen=True, eq=False)
class Table:
    """A K x K table over pairs (k, j) of coordinates: left @ powers^T, plus `diagonal` where k = j."""

    left: Float[Tensor, "k 3"]
    diagonal: Float[Tensor, "k"]

    def scaled(self, rows: Float[Tensor, "k"]) -> "Table":
        """Row k times rows[k]."""
        return Table(rows[:, None] * self.left, rows * self.diagonal)

    def plus(self, other: "Table", factor: float = 1.0) -> "Table":
        """The sum of two tables."""
        return Table(self.left + factor * other.left, self.diagonal + factor * other.diagonal)

    def dense(self, powers: Float[Tensor, "k 3"]) -> Float[Tensor, "k k"]:
        """The table itself (each coordinate its own group)."""
        return self.left @ powers.T + torch.diag(self.diagonal)


@dataclass(frozen=True, eq=False)
class Moments:
    """Moment tables of one context length.

    Attributes:
        powers: eigenvalues to the powers 1, 2, 3.
        vvvv: E v_k^2 v_j^2.
        bvvv: E beta_k v_k v_j^2.
        bbvv: E beta_k^2 v_j^2.
        vvvv_core: (3, 3) with vvvv.left = powers @ vvvv_core.
    """

    powers: Float[Tensor, "k 3"]
    vvvv: Table
    bvvv: Table
    bbvv: Table
    vvvv_core: Float[Tensor, "3 3"]


def moments(problem: Problem, context: int, eigenvalues: Float[Tensor, "k"] | None = None) -> Moments:
    """Moment tables for `context` examples, for the given eigenvalues of H (all by default)."""
    lam = problem.eigenvalues if eigenvalues is None else eigenvalues
    n = float(check_length("context", context))
    p = problem.psi**2
    u1, u2, u3 = n, n * (n + 2), n * (n + 2) * (n + 4)
    u4 = u3 * (n + 6)
    e2 = problem.sigma**2 + p * problem.trace
    e4 = e2**2 + 2 * p**2 * float((problem.eigenvalues**2).sum())
    powers = torch.stack([lam, lam**2, lam**3], 1)

    first, second = p * e2 * (u3 - u2), 2 * p**2 * (u3 - u2)
    core = lam.new_tensor([[u2 * e4, first, second], [first, p**2 * (u4 - 6 * u3 + 3 * u2), 0], [second, 0, 0]]) / n**4
    vvvv_diagonal = (
        3 * u2 * e4 * lam**2 + 6 * p * e2 * (u3 - u2) * lam**3 + p**2 * (3 * u4 - 6 * u3 - 3 * u2) * lam**4
    ) / n**4
    cross = lam.new_tensor([[u2 * p * e2, p**2 * (u3 - 3 * u2), 0], [2 * u2 * p**2, 0, 0], [0, 0, 0]]) / n**3
    bvvv_diagonal = (3 * p * e2 * u2 * lam**2 + 3 * p**2 * (u3 - u2) * lam**3) / n**3
    bbvv_left = torch.stack(
        [u1 * p * e2 + 2 * u1 * p**2 * lam, torch.full_like(lam, p**2 * (u2 - u1)), torch.zeros_like(lam)], 1
    )
    bbvv_diagonal = p * e2 * u1 * lam + p**2 * (3 * u2 - u1) * lam**2

    def table(left: Tensor, diagonal: Tensor) -> Table:
        return Table(left, diagonal - (left * powers).sum(1))

    return Moments(
        powers,
        table(powers @ core, vvvv_diagonal),
        table(powers @ cross, bvvv_diagonal),
        table(bbvv_left / n**2, bbvv_diagonal / n**2),
        core,
    )
