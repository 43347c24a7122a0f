"""Stable rank SR(M) = ||M||_F^2 / ||M||_2^2, with its distance from 1 to full relative precision."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

Method = Literal["auto", "svd", "power"]
# Beyond this the decomposition costs more than some products with one vector.
SMALL = 160


def stable_rank(M: Float[Tensor, "*batch rows columns"], method: Method = "auto") -> Float[Tensor, "*batch"]:
    """||M||_F^2 / ||M||_2^2, between 1 and the rank (NaN for a zero matrix).

    Args:
        M: one matrix or a batch.
        method: `svd`, `power` (top singular pair by power iteration), or `auto` by size.

    Raises:
        InputError: for an unknown method or something that is not a matrix.
    """
    return 1 + stable_rank_excess(M, method)


def stable_rank_excess(M: Float[Tensor, "*batch rows columns"], method: Method = "auto") -> Float[Tensor, "*batch"]:
    """SR(M) - 1 = sum_{k >= 2} s_k^2 / s_1^2, summed from the trailing part, so that 1e-20 is not rounded to 0.

    Raises:
        InputError: as `stable_rank`.
    """
    if M.ndim < 2:
        raise InputError(f"the stable rank is defined for a matrix, got shape {tuple(M.shape)}")
    if method not in ("auto", "svd", "power"):
        raise InputError(f"method must be auto, svd or power, got {method!r}")
    if method == "svd" or (method == "auto" and min(M.shape[-2:]) <= SMALL):
        values = torch.linalg.svdvals(M) ** 2
        return values[..., 1:].sum(-1) / values[..., 0]
    left, top = _top_singular_pair(M)
    deflated = M - left[..., :, None] * (left[..., None, :] @ M)
    return (deflated**2).sum((-2, -1)) / top**2


def spectral_norm(M: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """||M||_2, the largest singular value."""
    return _top_singular_pair(M)[1]


def _top_singular_pair(
    M: Float[Tensor, "*batch rows columns"], tolerance: float = 1e-13, limit: int = 2000
) -> tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*batch"]]:
    """Left vector and value by block power iteration with Rayleigh-Ritz (four vectors, for close values)."""
    width = min(4, *M.shape[-2:])
    start = torch.Generator().manual_seed(0)
    basis = torch.randn(M.shape[-1], width, generator=start, dtype=torch.float64).to(M)
    basis = torch.linalg.qr(M @ basis).Q
    before = M.new_full(M.shape[:-2], -math.inf)
    for _ in range(limit):
        basis = torch.linalg.qr(M @ (M.mT @ basis)).Q
        small = torch.linalg.svd(basis.mT @ M, full_matrices=False)
        value = small.S[..., 0]
        if bool(((value - before).abs() <= tolerance * value).all()):
            break
        before = value
    return (basis @ small.U[..., :, :1]).squeeze(-1), value
