"""p exp(h G): Chebyshev for the symmetrisable generator of a frozen exact score, uniformization for any other."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import gammaln, ive
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import MOST_TERMS
from ctmc_bounds.kronecker import KroneckerBlocks, kronecker_sum

TOLERANCE = 1e-15  # of a Chebyshev coefficient: an error of that size, relative to the largest p/q, on each interval
# states between which the compiled series is used: below, Python's overhead is small beside loading numba; above, the
# vectors leave the cache and dense blocks are faster
COMPILED_FROM, COMPILED_TO = 2**11, 2**17


def chebyshev_coefficients(z: float, tolerance: float = TOLERANCE) -> np.ndarray:
    """c_k = (2 - [k = 0]) e^{-z} I_k(z), as many as exceed `tolerance`: e^{z (x-1)} = sum c_k T_k(x) on [-1, 1]."""
    orders = np.arange(int(z + 8 * math.sqrt(z) + 24))
    values = 2 * ive(orders, z)
    values[0] /= 2
    return values[: int(np.nonzero(values > tolerance)[0][-1]) + 1]


def frozen_flow(
    blocks: KroneckerBlocks, q: Float[Tensor, " n"], p: Float[Tensor, " n"], h: float
) -> tuple[Float[Tensor, " n"], int]:
    """p exp(h G), G the generator with the exact score of q frozen: rate x -> y is q(y) / (S q(x)).

    G = D^{-1} (A - R) D with D = diag(q), A the adjacency over S, R = (A q)/q the exit rates; A - R is symmetric,
    its spectrum in [-(max R + d/S), 0]. Nothing of size n x d is made.

    Returns:
        The law after time h and the number of generator products.
    """
    ctmc = blocks.ctmc
    R = blocks.sum(blocks.adjacency, q).div_(q)
    half = (float(R.max()) + ctmc.d / ctmc.S) / 2
    coefficients = chebyshev_coefficients(h * half)
    # 2 M' with M' = (A - R + half) / half in [-1, 1]
    diagonal = R.mul_(-2 / half).add_(2)
    if q.device.type == "cpu" and COMPILED_FROM <= len(q) <= COMPILED_TO:
        total = _compiled_series(blocks, 2 / half, diagonal, p / q, coefficients)
    else:
        total = _series(blocks, 2 / half, diagonal, p / q, coefficients)
    return total.mul_(q), len(coefficients)


def _series(
    blocks: KroneckerBlocks, factor: float, diagonal: Tensor, before: Tensor, coefficients: np.ndarray
) -> Tensor:
    """sum_k c_k T_k(M) before, 2 M = factor A + diagonal, by dense blocks."""
    matrices = [block * factor for block in blocks.adjacency]
    total = float(coefficients[0]) * before
    if len(coefficients) == 1:
        return total
    now = blocks.add_sum(diagonal * before, matrices, before).div_(2)
    total.add_(now, alpha=float(coefficients[1]))
    for coefficient in coefficients[2:]:
        before.neg_().addcmul_(diagonal, now)
        blocks.add_sum(before, matrices, now)
        before, now = now, before
        total.add_(now, alpha=float(coefficient))
    return total


def _compiled_series(
    blocks: KroneckerBlocks, factor: float, diagonal: Tensor, start: Tensor, coefficients: np.ndarray
) -> Tensor:
    """The same in one compiled call: about three times faster where the vectors fit into the cache."""
    from ctmc_bounds.compiled import chebyshev_sum, low_axes

    S, d = blocks.ctmc.S, blocks.ctmc.d
    last = low_axes(S, d)
    low = (factor * kronecker_sum(blocks.token, last)).numpy()
    values = diagonal.numpy(), start.numpy(), coefficients
    return torch.from_numpy(chebyshev_sum(S, d - last, low, factor / S, *values))


def poisson_weights(z: float, tolerance: float = 1e-17) -> np.ndarray:
    """e^{-z} z^k / k! for k = 0, 1, ... until the tail beyond k = z is below `tolerance`; in logs: z may be large."""
    orders = np.arange(int(z + 12 * math.sqrt(z) + 60))
    if z == 0:
        return np.ones(1)
    weights = np.exp(orders * math.log(z) - z - gammaln(orders + 1))
    weights /= weights.sum()  # the logs of a large z cost digits that the known sum, 1, gives back
    tail = np.cumsum(weights[::-1])[::-1]
    return weights[: int(np.nonzero((tail > tolerance) | (orders <= z))[0][-1]) + 1]


def uniformization(inflow: Callable[[Tensor], Tensor], exit_rates: Tensor, p: Tensor, h: float) -> tuple[Tensor, int]:
    """p exp(h G) by Poisson weights: non-negative arithmetic only, hence accurate in every component.

    Args:
        inflow: v -> v G with the diagonal left out.
        exit_rates: minus the diagonal of G, of the shape of p.
        p: law(s), last dimension states.
        h: time.

    Raises:
        InputError: if h times the largest exit rate is no number, or would take more than `MOST_TERMS` products.
    """
    rate = float(exit_rates.max())
    if rate == 0 or h == 0:
        return p.clone(), 0
    if not rate * h <= MOST_TERMS:
        raise InputError(
            f"the exit rate {rate:.4g} over a step h = {h:.3g} would take {rate * h:.3g} generator products, above the"
            f" cap of {MOST_TERMS}; the score is too large: clip it (ctmc_bounds.Clipped, --clip), or take more steps"
        )
    weights = poisson_weights(rate * h)
    stay = 1 - exit_rates / rate
    total, term = float(weights[0]) * p, p
    for weight in weights[1:]:
        term = inflow(term) / rate + stay * term
        total.add_(term, alpha=float(weight))
    return total, len(weights) - 1
