"""Expected one-pass SGD without Monte Carlo: an exact recursion for the second moments of Gamma_t - Gamma*.

SGD draws a fresh task each step, e = f - y, Gamma <- Gamma - gamma e x v^T. Because Gaussian coordinates are symmetric
in sign, the array S_ij = E Delta_ij^2 and the vector D_i = E Delta_ii of Delta = Gamma - Gamma*_N (in the eigenbasis of
H) evolve among themselves, for any starting point. Equal eigenvalues share their entries, so the cost of a step depends
on the number of distinct eigenvalues only. Fourth moments of v are of rank 3 plus a diagonal (`prompt_moments`), so a
step costs a few passes over S.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_linear.checks import check_count
from icl_linear.problem import Problem
from icl_linear.prompt_moments import moments

# Beyond this size of the linear map, stepping is quicker than powers of its matrix.
LARGEST_MATRIX = 150


@dataclass(frozen=True, eq=False)
class State:
    """Moments of Delta between groups of equal eigenvalues; B independent problems at once.

    Attributes:
        pair: E Delta_ij^2 for i in group a, j in group b, i != j.
        same: E Delta_ii^2.
        mean: E Delta_ii.
    """

    pair: Float[Tensor, "batch k k"]
    same: Float[Tensor, "batch k"]
    mean: Float[Tensor, "batch k"]


class Recursion:
    """One step of expected SGD, as a map of `State`.

    Args:
        problem: the tasks.
        context: number N of context examples in pretraining.
        batch_size: fresh tasks averaged in each step.
        grouped: let equal eigenvalues share their moments (the start must then be equal within groups).
    """

    def __init__(self, problem: Problem, context: int, batch_size: int = 1, grouped: bool = True) -> None:
        self.batch_size = check_count("batch_size", batch_size)
        self.groups: Int[Tensor, d]
        self.eigenvalues, self.groups, self.sizes = _group(problem.eigenvalues, grouped)
        lam = self.eigenvalues
        found = moments(problem, context, lam)
        representative = first_of_each(self.groups, len(lam))
        self.star = problem.gamma_star(context)[representative]
        h_tilde = problem.h_tilde(context)[representative]
        self.W = lam[:, None] * h_tilde
        self.powers, self.core, self.delta = found.powers, found.vvvv_core, found.vvvv.diagonal
        self.z = found.bvvv.plus(found.vvvv.scaled(self.star), -1)
        label = found.bbvv.plus(found.bvvv.scaled(self.star), -2).plus(found.vvvv.scaled(self.star**2))
        level = problem.trace + (problem.sigma / problem.psi) ** 2
        # sigma^2 W, with Htil = psi^2 (level / N lam + (N + 1) / N lam^2) written in powers of lam
        h_left = lam.new_tensor([level / context, 1 + 1 / context, 0]) * problem.psi**2
        self.noise_left, self.noise_row, self.noise_same = self._quad(label.left, label.diagonal)
        self.noise_left = self.noise_left + problem.sigma**2 * lam[:, None] * h_left
        self.own = 2 * lam[:, None] ** 2 * self.delta

    def _quad(self, left: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sum_k E[x_i^2 x_k^2] A_kj = lam_i (lam^T A)_j + 2 lam_i^2 A_ij of A = left @ powers^T + diag(diagonal).

        Returned as (left', row, same): left' @ powers^T + lam (x) row + diag(same).
        """
        lam = self.eigenvalues
        total = ((self.sizes * lam)[:, None] * left).sum(-2, keepdim=True)
        return lam[:, None] * total + 2 * lam[:, None] ** 2 * left, lam * diagonal, 2 * lam**2 * diagonal

    def _times_powers(self, state: State) -> tuple[Tensor, Tensor]:
        """(S powers, lam^T S) with the within-group entries told apart from the diagonal."""
        extra = state.same - state.pair.diagonal(dim1=-2, dim2=-1)
        rows = state.pair @ (self.sizes[:, None] * self.powers) + extra[..., None] * self.powers
        columns = (self.sizes * self.eigenvalues) @ state.pair + self.eigenvalues * extra
        return rows, columns

    def second_moment(self, state: State, noise: float = 1.0) -> tuple[Tensor, Tensor]:
        """E (e x_i v_j)^2 between groups (i != j) and on the diagonal (i = j); `noise` scales its constant part."""
        rows, columns = self._times_powers(state)
        mean = -2 * state.mean
        left, row, same = self._quad(rows @ self.core + mean[..., None] * self.z.left, mean * self.z.diagonal)
        left = left + noise * self.noise_left
        row = row + self.delta * columns + noise * self.noise_row
        same = same + noise * self.noise_same
        pair = left @ self.powers.T + self.eigenvalues[:, None] * row[..., None, :] + self.own * state.pair
        diagonal = (left * self.powers).sum(-1) + self.eigenvalues * row
        return pair, diagonal + self.own.diagonal() * state.same + same

    def step(self, state: State, gamma: float | Float[Tensor, batch], noise: float = 1.0) -> State:
        """S <- S - 2 gamma W S + gamma^2 (W^2 S + (second - W^2 S) / b), D <- D (1 - gamma diag W)."""
        gamma = torch.as_tensor(gamma, dtype=state.pair.dtype, device=state.pair.device)
        g2, g3 = gamma[..., None], gamma[..., None, None]
        pair, same = self.second_moment(state, noise)
        diagonal = self.W.diagonal()
        keep = 1 - 1 / self.batch_size
        return State(
            state.pair * (1 - 2 * g3 * self.W + g3**2 * keep * self.W**2) + g3**2 / self.batch_size * pair,
            state.same * (1 - 2 * g2 * diagonal + g2**2 * keep * diagonal**2) + g2**2 / self.batch_size * same,
            state.mean * (1 - g2 * diagonal),
        )

    def advance(self, state: State, gamma: float, steps: int) -> State:
        """`steps` steps of one size: by powers of the map's matrix where it is small, else one by one."""
        size = len(self.eigenvalues) ** 2 + 2 * len(self.eigenvalues) + 1
        if size <= LARGEST_MATRIX and steps > size:
            power = torch.linalg.matrix_power(self._matrix(gamma), steps)
            vector = torch.cat([_flatten(state), state.same.new_ones(len(state.same), 1)], 1)
            return self._unflatten((vector @ power.T)[:, :-1])
        if bool((self.sizes == 1).all()):
            return self._advance_distinct(state, gamma, steps)
        for _ in range(steps):
            state = self.step(state, gamma)
        return state

    def _advance_distinct(self, state: State, gamma: float, steps: int, chunk: int = 512) -> State:
        """`steps` steps where all eigenvalues differ: S keeps its own diagonal, seven small kernels a step.

        What does not depend on S (the noise, and D_t = D_0 (1 - gamma diag W)^t) is computed for a chunk of steps at
        once; what remains is S <- A * S + left right^T with left and right of four columns.
        """
        lam, factor, keep = self.eigenvalues, gamma**2 / self.batch_size, 1 - 1 / self.batch_size
        S = state.pair[0].clone()
        diagonal = S.diagonal().copy_(state.same[0])
        mean, shrink = state.mean[0], 1 - gamma * self.W.diagonal()
        A = 1 - 2 * gamma * self.W + gamma**2 * keep * self.W**2 + factor * self.own
        core = self.powers @ self.core
        mix = factor * (lam[:, None] * lam + torch.diag(2 * lam**2))
        left = torch.empty(len(lam), 4, dtype=S.dtype, device=S.device)
        right = left.clone()
        left[:, 3], right[:, :3] = factor * lam, self.powers
        left3, right4, right_t, S_t = left[:, :3], right[:, 3], right.T, S.T
        for start in range(0, steps, chunk):
            count = min(chunk, steps - start)
            means = -2 * mean * shrink ** torch.arange(count, dtype=S.dtype, device=S.device)[:, None]
            lefts = mix @ (means[..., None] * self.z.left) + factor * self.noise_left
            rows = lam * self.z.diagonal * means + self.noise_row
            sames = factor * (2 * lam**2 * self.z.diagonal * means + self.noise_same)
            for constant_left, constant_row, constant_same in zip(lefts, rows, sames, strict=True):
                torch.addmm(constant_left, mix, S @ core, out=left3)
                torch.addcmul(constant_row, self.delta, S_t @ lam, out=right4)
                S.mul_(A).addmm_(left, right_t)
                diagonal.add_(constant_same)
            mean = mean * shrink**count
        return State(S[None], S.diagonal()[None].clone(), mean[None])

    def _matrix(self, gamma: float) -> Float[Tensor, "size size"]:
        """The affine map (S, D, 1) -> (S, D, 1) of one step as a matrix."""
        size = len(self.eigenvalues) ** 2 + 2 * len(self.eigenvalues)
        eye = torch.eye(size, dtype=self.eigenvalues.dtype, device=self.eigenvalues.device)
        linear = _flatten(self.step(self._unflatten(eye), gamma, noise=0.0))
        constant = _flatten(self.step(self._unflatten(torch.zeros_like(eye[:1])), gamma))
        matrix = torch.zeros(size + 1, size + 1, dtype=eye.dtype, device=eye.device)
        matrix[:-1, :-1], matrix[:-1, -1], matrix[-1, -1] = linear.T, constant[0], 1
        return matrix

    def _unflatten(self, flat: Float[Tensor, "batch size"]) -> State:
        k = len(self.eigenvalues)
        return State(flat[:, : k * k].reshape(-1, k, k), flat[:, k * k : k * k + k], flat[:, k * k + k :])

    def weigh(self, state: State, pair_weights: Tensor) -> Float[Tensor, batch]:
        """sum_ij weight_ij E Delta_ij^2 over all d^2 entries, for weights that depend on the groups only."""
        extra = self.sizes * pair_weights.diagonal() * (state.same - state.pair.diagonal(dim1=-2, dim2=-1))
        return torch.einsum("bij,ij->b", state.pair, self.sizes[:, None] * self.sizes * pair_weights) + extra.sum(-1)


def _group(eigenvalues: Tensor, grouped: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct eigenvalues, the group of each coordinate, the size of each group."""
    if not grouped:
        return eigenvalues, torch.arange(len(eigenvalues), device=eigenvalues.device), torch.ones_like(eigenvalues)
    distinct, groups, counts = torch.unique(eigenvalues, return_inverse=True, return_counts=True)
    return distinct, groups, counts.to(eigenvalues.dtype)


def first_of_each(groups: Int[Tensor, d], count: int) -> Int[Tensor, k]:
    """Of each of `count` groups, the first coordinate that belongs to it."""
    first = torch.full((count,), len(groups), device=groups.device, dtype=groups.dtype)
    positions = torch.arange(len(groups), device=groups.device)
    return first.scatter_reduce(0, groups, positions, "amin")


def _flatten(state: State) -> Float[Tensor, "batch size"]:
    return torch.cat([state.pair.flatten(1), state.same, state.mean], 1)
