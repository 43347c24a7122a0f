"""Synthetic data: orthogonal, Gaussian, signal plus noise, and nearly orthogonal with a ratio that is met exactly."""

import math

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

Pair = tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]


def balanced_labels(n: int) -> Float[Tensor, " n"]:
    """+1 and -1 in turn."""
    return torch.tensor([1.0, -1.0], dtype=torch.float64).repeat((n + 1) // 2)[:n]


def _normal(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    if n < 1 or d < 1:
        raise InputError(f"n and d must be at least 1, got n = {n}, d = {d}")
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(n: int, d: int, seed: int = 0) -> Pair:
    """x ~ N(0, I / d): norms about 1, overlaps about d^{-1/2}.

    Raises:
        InputError: unless n, d >= 1.
    """
    return _normal(n, d, seed) / math.sqrt(d), balanced_labels(n)


def orthogonal(n: int, d: int, seed: int = 0) -> Pair:
    """n orthonormal points in a random position.

    Raises:
        InputError: if n > d.
    """
    if n > d:
        raise InputError(f"there are no {n} orthogonal points in {d} dimensions: n must be at most d")
    return torch.linalg.qr(_normal(d, n, seed)).Q.T.contiguous(), balanced_labels(n)


def mixture(n: int, d: int, signal: float = 1.0, seed: int = 0) -> Pair:
    """x = y mu + xi with ||mu|| = `signal` and xi ~ N(0, I / d): a signal in high-dimensional noise.

    Raises:
        InputError: unless n, d >= 1 and the signal is finite.
    """
    if not math.isfinite(signal):
        raise InputError(f"signal must be finite, got {signal}")
    draws = _normal(n + 1, d, seed)
    y = balanced_labels(n)
    mu = signal * draws[0] / torch.linalg.vector_norm(draws[0])
    return y[:, None] * mu + draws[1:] / math.sqrt(d), y


def near_orthogonal(n: int, d: int, ratio: float, seed: int = 0) -> Pair:
    """Unit vectors with R_min^2 / (n p) equal to `ratio`: G = I + S / (n ratio), S random with largest entry 1.

    Raises:
        InputError: if n > d, or the ratio is so low that such a G is not positive definite.
    """
    if not ratio > 0:
        raise InputError(f"ratio must be > 0, got {ratio}")
    basis, y = orthogonal(n, d, seed)
    if n == 1 or math.isinf(ratio):
        return basis, y
    S = torch.triu(_normal(n, n, seed + 1), diagonal=1)
    S = S + S.T
    S /= S.abs().max()
    lowest = float(torch.linalg.eigvalsh(S)[0])
    if 1 + lowest / (n * ratio) <= 1e-9:
        raise InputError(
            f"ratio {ratio:g} is too low for {n} such points: the Gram matrix would not be positive; "
            f"ask for more than {-lowest / n:.3g}"
        )
    G = torch.eye(n, dtype=torch.float64) + S / (n * ratio)
    return torch.linalg.cholesky(G) @ basis, y
