"""The duals behind the limits: of a fixed pattern, and of one whose slopes on the other class are free.

alpha = argmin_{a >= 0} a' K a / 2 - h' a are the multipliers of the smallest weights with margins >= 1 (h = 1).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaky_relu_bias.network import block_signs
from leaky_relu_bias.orthogonality import TrainingSet

# alpha_i below this share of the largest is zero
NEGLIGIBLE = 1e-9
# eigenvalues below this share of the largest diagonal entry, times the size, are rounding
RANK = 1e-13
# unknowns of the dense dual with chatter, and changes of sides before it is given up
LARGEST = 2500
ROUNDS = 50


def dual_variables(
    K: Float[Tensor, "n n"], target: Float[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, " n"], float]:
    """alpha = argmin_{a >= 0} a' K a / 2 - target' a and how far the optimum is from being one (`target` is 1).

    K^{-1} target where that is positive, else by non-negative least squares. The residual is max(0, target - K alpha):
    0 at an optimum, positive where the dual is unbounded. Where K is singular (parallel points) alpha is one optimum
    of several; K alpha, and with it every margin, is the same for all of them.
    """
    scale = float(K.diagonal().max())
    unit = (K / scale).cpu().double().numpy()
    wanted = np.ones(len(unit)) if target is None else target.cpu().double().numpy()
    values, vectors = np.linalg.eigh(unit)
    kept = values > RANK * len(unit)
    if kept.all():
        direct = np.linalg.solve(unit, wanted)
        if (direct > 0).all():
            return torch.as_tensor(direct / scale).to(K), 0.0
    F = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    alpha = _polished(unit, _least_distance(F, wanted), wanted)
    residual = float(np.maximum(0, wanted - unit @ alpha).max())
    return torch.as_tensor(alpha / scale).to(K), residual


def is_singular(K: Float[Tensor, "n n"]) -> bool:
    """Whether K has directions of rounding size only, so that alpha is not unique."""
    values = torch.linalg.eigvalsh(K)
    return bool(values[0] <= RANK * len(K) * K.diagonal().max())


def _least_distance(F: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Multipliers of min ||w|| with F'w >= target (Lawson and Hanson, Solving Least Squares Problems, chapter 23)."""
    from scipy.optimize import nnls

    E = np.vstack([F, target])
    last = np.zeros(len(E))
    last[-1] = 1
    u, _ = nnls(E, last, maxiter=100 * E.shape[1])
    rest = 1 - target @ u
    # 0: no w satisfies all of them
    return u / rest if rest > 1e-14 else np.zeros_like(u)


def _polished(K: np.ndarray, alpha: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve on the support that NNLS found: the eigenvalue factor costs it some digits."""
    support = alpha > NEGLIGIBLE * alpha.max()
    exact = np.zeros_like(alpha)
    exact[support] = np.linalg.lstsq(K[np.ix_(support, support)], target[support], rcond=None)[0]
    return exact if (exact >= 0).all() else alpha


@dataclass(frozen=True)
class SlidingSolution:
    """The dual with free slopes on the points of the other class.

    Args:
        A: multipliers of the points in each row of W.
        alpha: dual variables of the margins.
        sliding: pre-activations that are held at 0 by a slope strictly between gamma and 1.
        residual: as of `dual_variables`.
    """

    A: Float[Tensor, "rows n"]
    alpha: Float[Tensor, " n"]
    sliding: int
    residual: float


class _Kinds:
    """The different rows of a pattern: the neurons of a block with equal slopes on their own class end alike.

    The problem is convex and symmetric in them, so that one row stands for all; `weight` is its share of m.
    """

    def __init__(self, data: TrainingSet, D: Float[Tensor, "rows n"]) -> None:
        signs = block_signs(len(D) // 2, D)[:, None] * data.y
        own = torch.where(signs > 0, D, 0)
        # the signs tell the blocks apart where their slopes are the same
        rows, self.kind_of, count = torch.unique(
            torch.cat([signs, own], dim=1), dim=0, return_inverse=True, return_counts=True
        )
        self.signs, self.own = rows[:, : data.n], rows[:, data.n :]
        self.weight = count.to(D) / (len(D) // 2)
        self.data = data

    def solve(self, upper: Tensor, gamma: float) -> tuple[Tensor, Tensor, float]:
        """alpha, slopes times alpha of each kind, and the residual, with the given side of each kink.

        On the lower side <w_r, x_i> <= 0 and the slope is gamma plus a multiplier mu_ri >= 0 over alpha_i, on the
        upper one <w_r, x_i> >= 0 and it is 1 minus that.
        """
        n, G = self.data.n, self.data.gram
        base = torch.where(self.signs > 0, self.own, torch.where(upper, 1, gamma))
        r, i = (self.signs < 0).nonzero().T
        way = torch.where(upper[r, i], -1.0, 1.0).to(G)
        share = (self.weight[r] * way)[:, None]
        # what a unit of alpha_i, and of mu_ri, adds to the rows; scaled so that alpha is that of K
        H = torch.zeros(n + len(r), n + len(r), dtype=G.dtype, device=G.device)
        H[:n, :n] = torch.outer(self.data.y, self.data.y) * ((base * self.weight[:, None]).T @ base) * G
        coupling = -share * (self.signs * base)[r] * G[i]
        H[n:, :n], H[:n, n:] = coupling, coupling.T
        H[n:, n:] = share * way * (r[:, None] == r) * G[i][:, i]
        target = torch.zeros(len(H), dtype=G.dtype, device=G.device)
        target[:n] = 1
        solution, residual = dual_variables(H, target)
        alpha, total = solution[:n], base * solution[:n]
        total[r, i] += way * solution[n:]
        return alpha, total, residual


def sliding_dual(data: TrainingSet, D: Float[Tensor, "rows n"], gamma: float) -> SlidingSolution | None:
    """The smallest W with margins >= 1 whose neurons have the slopes D on their own class, any on the other.

    A mean slope total_ri / alpha_i in [gamma, 1] acts on a point of the other class; where it is strictly between,
    descent chatters and holds the pre-activation at 0. In these slopes the problem is convex: a solution on one side
    of each kink is found by `dual_variables`, and the sides whose slope has left [gamma, 1] are changed. None where
    that does not settle, or where more than `LARGEST` unknowns remain.
    """
    kinds = _Kinds(data, D)
    other = kinds.signs < 0
    if data.n + int(other.sum()) > LARGEST:
        return None
    upper = torch.zeros_like(other)
    for _ in range(ROUNDS):
        alpha, total, residual = kinds.solve(upper, gamma)
        slack = NEGLIGIBLE * alpha.max()
        wrong = other & torch.where(upper, total < gamma * alpha - slack, total > alpha + slack)
        if not wrong.any():
            between = other & (total > gamma * alpha + slack) & (total < alpha - slack)
            sliding = int(between[kinds.kind_of].sum())
            return SlidingSolution((kinds.signs * total)[kinds.kind_of], alpha, sliding, residual)
        upper = upper ^ wrong
    return None
