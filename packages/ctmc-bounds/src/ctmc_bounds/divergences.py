"""Distances between laws, free of cancellation; always (target, generated) in this order."""

from typing import Any

import torch
from torch import Tensor

from ctmc_bounds.arrays import like_input, real


@like_input
def kl(q: Any, p: Any) -> Any:
    """KL(q || p) = sum q (r - log(1+r)), r = (p - q)/q: non-negative term by term, so that 1e-18 is seen.

    For laws that miss mass 1 by rounding this is the generalised divergence, KL + mass(p) - mass(q) >= 0.

    Returns:
        A float; infinite where p = 0 and q > 0.
    """
    q, p = real(q), real(p)
    there = q > 0
    r = (p[there] - q[there]) / q[there]
    return float((q[there] * (r - torch.log1p(r))).sum() + p[~there].sum())


@like_input
def tv(q: Any, p: Any) -> Any:
    """Total variation, half the sum of |q - p|."""
    return float((real(q) - real(p)).abs().sum() / 2)


@like_input
def chi2(q: Any, p: Any) -> Any:
    """chi^2(q || p) = sum (q - p)^2 / p."""
    q, p = real(q), real(p)
    return float(torch.where(q == p, 0.0, (q - p) ** 2 / p).sum())


def bregman(log_s: Tensor, log_s_hat: Tensor) -> Tensor:
    """D_I(s || s_hat) = s log(s/s_hat) - s + s_hat for I(x) = x log x, from logarithms.

    s (e^g - 1 - g) with g = log s_hat/s; the true score comes first.
    """
    gap = log_s_hat - log_s
    return torch.exp(log_s) * (torch.expm1(gap) - gap)
