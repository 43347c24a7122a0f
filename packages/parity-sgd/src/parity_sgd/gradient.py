"""Minus the gradient of the correlation loss: of a batch, of the whole distribution, and its exact spread."""

from collections.abc import Sequence
from fractions import Fraction
from math import factorial, log

import torch
from jaxtyping import Float, UInt8
from shared_core.errors import InputError
from torch import Tensor

from parity_sgd.codes import code_bytes, unpack
from parity_sgd.lookup import gradient_sum
from parity_sgd.network import integer_power

CHUNK = 65536


def batch_gradient(
    W: Float[Tensor, "m d"],
    a: Float[Tensor, "m"],
    k: int,
    codes: UInt8[Tensor, "n bytes"],
    weights: Float[Tensor, "n"],
    total: float | None = None,
) -> Float[Tensor, "m d"]:
    """G_r = (1/B) sum_i k <w_r, x_i>^(k-1) a_r y_i x_i, in float64.

    On a CPU in float32 it is summed by table look-up (`parity_sgd.lookup`), otherwise by matrix products in chunks;
    memory does not depend on the batch.

    Args:
        W: first layer.
        a: second layer.
        k: degree.
        codes: packed points.
        weights: labels, or labels times multiplicities where equal points are counted once.
        total: B; the number of points where None.

    Raises:
        InputError: if the points are not packed ones of W's dimension, or not as many as there are weights.
    """
    m, d = W.shape
    if codes.shape != (len(weights), code_bytes(d)) or a.shape != (m,):
        raise InputError(
            f"for W of shape {(m, d)} and {len(weights)} weights, codes must be {(len(weights), code_bytes(d))} and a "
            f"({m},); got {tuple(codes.shape)} and {tuple(a.shape)}"
        )
    if W.device.type == "cpu" and W.dtype == torch.float32:
        weights = weights.to(torch.float32)
        summed = torch.from_numpy(gradient_sum(codes.numpy(), weights.numpy(), W.detach().contiguous().numpy(), k - 1))
    else:
        summed = _matmul_gradient(W.detach(), k, codes, weights)
    return summed * (a.to(summed.dtype) * (k / (total or len(codes))))[:, None]


def _matmul_gradient(
    W: Float[Tensor, "m d"], k: int, codes: UInt8[Tensor, "n bytes"], weights: Float[Tensor, "n"]
) -> Float[Tensor, "m d"]:
    # MPS has no float64; there the chunks are summed in float32.
    total = torch.zeros_like(W, dtype=torch.float32 if W.device.type == "mps" else torch.float64)
    for rows, y in zip(codes.split(CHUNK), weights.split(CHUNK), strict=True):
        X = unpack(rows, W.shape[1], W.dtype)
        H = integer_power(X @ W.T, k - 1) * y.to(W.dtype)[:, None]
        total += H.T @ X
    return total


def population_gradient(
    W: Float[Tensor, "... m d"], a: Float[Tensor, "... m"], support: Sequence[int], label_noise: float = 0.0
) -> Float[Tensor, "... m d"]:
    """E G in closed form: (1 - 2 label_noise) a_r k! prod_{i in S, i != j} w_{r,i} for j in S, exactly 0 off S."""
    result = torch.zeros_like(W)
    for j in support:
        others = [i for i in support if i != j]
        result[..., j] = (1 - 2 * label_noise) * factorial(len(support)) * a * W[..., others].prod(-1)
    return result


def second_moment(d: int, k: int) -> int:
    """V(d, k) = k^2 E (eps_1 + ... + eps_d)^(2k-2): second moment of one sample's gradient at w in {-1, +1}^d.

    Exact in integers: 1 for k = 1, 4d for k = 2, 9(3d^2 - 2d) for k = 3, about k^2 (2k-3)!! d^(k-1) in general.

    Raises:
        InputError: unless 1 <= k <= d.
    """
    if not 1 <= k <= d:
        raise InputError(f"k must be in 1..d, got k = {k}, d = {d}")
    # E (eps_1 + ... + eps_d)^(2p) / (2p)! is the coefficient of t^(2p) in cosh(t)^d (Miller's recurrence in t^2).
    moments = [Fraction(1)]
    for n in range(1, k):
        terms = (Fraction(i * (d + 1) - n, factorial(2 * i)) * moments[n - i] for i in range(1, n + 1))
        moments.append(sum(terms, Fraction(0)) / n)
    return k * k * int(moments[-1] * factorial(2 * k - 2))


def critical_batch(d: int, k: int, m: int, threshold: float = 0.5, label_noise: float = 0.0) -> float:
    """Batch with which all m d thresholded signs of one step are right with probability about 1/2.

    V(d, k) 2 ln(m d) / (k! (1 - 2 label_noise) min(c, 1 - c))^2 for the threshold rho = c k! (1 - 2 label_noise).

    Raises:
        InputError: unless 1 <= k <= d and 0 < threshold < 1, or where d^(2k-2) is beyond the range of a float.
    """
    if not 0 < threshold < 1:
        raise InputError(f"threshold must be in (0, 1) in units of the signal k!, got {threshold}")
    try:
        signal = factorial(k) * (1 - 2 * label_noise) * min(threshold, 1 - threshold)
        return float(second_moment(d, k)) * 2 * log(m * d) / signal**2
    except OverflowError:
        raise InputError(
            f"d^(k-1) is beyond the range of a float for d = {d}, k = {k}; no batch is large enough"
        ) from None
