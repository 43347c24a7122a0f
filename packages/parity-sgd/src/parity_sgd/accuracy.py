"""Accuracy of a network on the parity: exact by enumeration, exact by a bound, or Monte Carlo with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from scipy.stats import norm
from torch import Tensor

from parity_sgd.codes import all_codes, parity, random_codes, unpack
from parity_sgd.lookup import network_values
from parity_sgd.network import integer_power

ENUMERATE_MAX_D = 20
CHUNK = 65536


@dataclass(frozen=True)
class Accuracy:
    """Accuracy under the clean uniform law; f(x) = 0 is an error.

    Args:
        value: the accuracy, or its estimate.
        low: lower end of the 95% Wilson interval, equal to `value` where exact.
        high: upper end.
        margin: smallest y f(x) / m seen (enumerated, sampled, or guaranteed by the bound).
        method: how it was found.
    """

    value: float
    low: float
    high: float
    margin: float
    method: Literal["enumerated", "certified", "sampled"]


def exact_accuracy(
    W: Float[Tensor, "m d"],
    a: Float[Tensor, "m"],
    support: Sequence[int],
    *,
    samples: int = 65536,
    seed: int = 0,
    enumerate_max_d: int = ENUMERATE_MAX_D,
) -> Accuracy:
    """P(y f(x) > 0), exact where possible.

    All 2^d inputs up to `enumerate_max_d`; beyond, the 2^k feature patterns with a bound on what the noise weights can
    change; where the bound is not below the margin, `samples` fresh points from their own seed.
    """
    k, d = len(support), W.shape[1]
    if d <= enumerate_max_d:
        codes = all_codes(d, W.device)
        right, margin = _count(W, a, k, codes, support)
        value = right / len(codes)
        return Accuracy(value, value, value, margin, "enumerated")
    certified = _certify(W, a, support)
    if certified is not None:
        return certified
    generator = torch.Generator(W.device).manual_seed(seed)
    right, margin = _count(W, a, k, random_codes(samples, d, generator), support)
    return Accuracy(right / samples, *wilson_interval(right, samples), margin, "sampled")


def packed_values(
    W: Float[Tensor, "m d"], a: Float[Tensor, "m"], k: int, codes: UInt8[Tensor, "n bytes"]
) -> Float[Tensor, "n"]:
    """f(x) = sum_r a_r <w_r, x>^k at packed points, in float64; by table look-up on a CPU, by products elsewhere."""
    if W.device.type == "cpu" and W.dtype == torch.float32:
        return torch.from_numpy(network_values(codes.numpy(), W.detach().contiguous().numpy(), a.double().numpy(), k))
    wide = torch.float32 if W.device.type == "mps" else torch.float64
    rows = [
        integer_power(unpack(part, W.shape[1], W.dtype) @ W.T, k).to(wide) @ a.to(wide) for part in codes.split(CHUNK)
    ]
    return torch.cat(rows)


def _count(
    W: Float[Tensor, "m d"], a: Float[Tensor, "m"], k: int, codes: UInt8[Tensor, "n bytes"], support: Sequence[int]
) -> tuple[int, float]:
    margins = packed_values(W, a, k, codes) * parity(codes, support)
    return int((margins > 0).sum()), float(margins.min()) / len(W)


def _certify(W: Float[Tensor, "m d"], a: Float[Tensor, "m"], support: Sequence[int]) -> Accuracy | None:
    """Enumerate the feature patterns; |(u + v)^k - u^k| <= k |v| (|u| + |v|)^(k-1) with |v| <= the noise's l1 norm."""
    k, W, a = len(support), W.double(), a.double()
    if k > 16:
        return None
    patterns = unpack(all_codes(k, W.device), k, torch.float64)
    u = patterns @ W[:, list(support)].T
    v = W.abs().sum(1) - W[:, list(support)].abs().sum(1)
    change = (k * v * (u.abs() + v) ** (k - 1)) @ a.abs()
    margins = patterns.prod(1) * (integer_power(u, k) @ a)
    if not (change < margins.abs()).all():
        return None
    value = (margins > 0).double().mean().item()
    return Accuracy(value, value, value, float((margins - change).min()) / len(W), "certified")


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; sensible also at 0 and 1."""
    z = float(norm.ppf(0.5 + confidence / 2))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
