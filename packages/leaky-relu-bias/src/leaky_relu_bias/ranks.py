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
PATIENCE = 40
HEAVY = 48


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
        return _excess_by_svd(M)
    left, top, converged = _top_singular_pair(M, PATIENCE if method == "auto" else 5000)
    if not converged and method == "auto":  # no gap, as in random weights
        return _excess_by_svd(M)
    deflated = M - left[..., :, None] * (left[..., None, :] @ M)
    return (deflated**2).sum((-2, -1)) / top**2


def _excess_by_svd(M: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    values = torch.linalg.svdvals(M) ** 2
    return values[..., 1:].sum(-1) / values[..., 0]


def spectral_norm(M: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """||M||_2, the largest singular value."""
    return _top_singular_pair(M)[1]


def _top_singular_pair(
    M: Float[Tensor, "*batch rows columns"], limit: int = 5000, tolerance: float = 1e-13
) -> tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*batch"], bool]:
    """Left vector and value by block power iteration with Rayleigh-Ritz (four vectors, for close values)."""
    # trained weights live in few directions: the heaviest columns nearly hold the top vector already
    heavy = (M**2).sum(-2).topk(min(HEAVY, M.shape[-1]), dim=-1).indices
    columns = torch.gather(M, -1, heavy[..., None, :].expand(*M.shape[:-1], -1))
    basis = torch.linalg.svd(columns, full_matrices=False).U[..., : min(4, *M.shape[-2:])]
    before, converged = M.new_full(M.shape[:-2], -math.inf), True
    for _ in range(limit):
        basis = torch.linalg.qr(M @ (M.mT @ basis)).Q
        small = torch.linalg.svd(basis.mT @ M, full_matrices=False)
        value = small.S[..., 0]
        if bool(((value - before).abs() <= tolerance * value).all()):
            break
        before = value
    else:
        converged = False
    return (basis @ small.U[..., :, :1]).squeeze(-1), value, converged
