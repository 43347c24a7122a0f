"""The duals behind the limits: of a fixed pattern, and of one whose pre-activations chatter at 0.

alpha = argmin_{a >= 0} a' K a / 2 - h' a are the multipliers of the smallest weights with margins >= 1 (h = 1).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaky_relu_bias.network import block_signs
from leaky_relu_bias.orthogonality import TrainingSet
from leaky_relu_bias.pattern import margin_kernel

# alpha_i below this share of the largest is zero
NEGLIGIBLE = 1e-9
# eigenvalues below this share of the largest diagonal entry, times the size, are rounding
RANK = 1e-13
# unknowns of the dense dual with chatter
LARGEST = 2500


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
    """The dual with chatter.

    Args:
        A: multipliers of the points in each row of W.
        alpha: dual variables of the margins.
        slopes: mean slope sigma' of each neuron on each point; beyond 1 it cannot act.
        residual: as of `dual_variables`.
    """

    A: Float[Tensor, "rows n"]
    alpha: Float[Tensor, " n"]
    slopes: Float[Tensor, "rows n"]
    residual: float


def sliding_dual(data: TrainingSet, D: Float[Tensor, "rows n"], gamma: float) -> SlidingSolution | None:
    """The dual with one more multiplier mu_ri >= 0 for <w_r, x_i> <= 0 on every point of the other class.

    The problem is convex, so that neurons of a block with equal slopes on their own class end alike, and one stands
    for all of them. None where more than `LARGEST` unknowns remain.
    """
    rows, n = D.shape
    m = rows // 2
    signs = block_signs(m, D)[:, None] * data.y
    base = torch.where(signs < 0, gamma, D)
    # the signs tell the blocks apart where their slopes are the same
    kinds, kind_of, count = torch.unique(
        torch.cat([signs, base], dim=1), dim=0, return_inverse=True, return_counts=True
    )
    signs, base = kinds[:, :n], kinds[:, n:]
    where = (signs < 0).nonzero()
    if n + len(where) > LARGEST:
        return None
    r, i = where[:, 0], where[:, 1]
    weight = count.to(D) / m
    # what a unit of alpha_i, and of mu_ri, adds to A; scaled so that alpha is that of K
    H = torch.zeros(n + len(where), n + len(where), dtype=D.dtype, device=D.device)
    H[:n, :n] = margin_kernel(base[kind_of], data.y, data.gram)
    coupling = -weight[r, None] * (signs * base)[r] * data.gram[i]
    H[n:, :n], H[:n, n:] = coupling, coupling.T
    H[n:, n:] = weight[r, None] * (r[:, None] == r) * data.gram[i][:, i]
    target = torch.zeros(len(H), dtype=D.dtype, device=D.device)
    target[:n] = 1
    solution, residual = dual_variables(H, target)
    alpha, total = solution[:n], base * solution[:n]
    total[r, i] += solution[n:]
    slopes = torch.where(alpha > 0, total / alpha.clamp(min=1e-300), base)
    slopes = torch.where(signs < 0, slopes, gamma)
    return SlidingSolution((signs * total)[kind_of], alpha, slopes[kind_of], residual)
