"""Accuracy of a network on the parity: exact by enumeration, exact by a bound, or Monte Carlo with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.special import ndtri
from torch import Tensor

from parity_sgd.checks import check_support
from parity_sgd.codes import all_codes, code_bytes, parity, random_codes, unpack
from parity_sgd.compiling import compiled
from parity_sgd.lookup import network_values
from parity_sgd.network import integer_power
from parity_sgd.streams import stream_generator

ENUMERATE_MAX_D = 20
CHUNK = 65536
KEPT_BYTES = 2**20
"""Sampled points up to this size are kept for the next network of the same seed."""


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
    change; where the bound is not below the margin, `samples` points of the seed's stream for evaluation.

    Raises:
        InputError: for a support that is empty, repeats, or lies outside 0..d-1.
    """
    support = check_support(W.shape[1], support, None)
    k, d = len(support), W.shape[1]
    if d <= enumerate_max_d:
        # y f is even, y(-x) f(-x) = y(x) f(x): half of the cube says all
        right, margin, points = _count(W, a, k, *_half_cube(d, tuple(support), W.device))
        return Accuracy(right / points, right / points, right / points, margin, "enumerated")
    certified = _certify(W, a, support)
    if certified is not None:
        return certified
    draw = _kept_points if samples * code_bytes(d) <= KEPT_BYTES else _sample_points
    right, margin, points = _count(W, a, k, *draw(samples, d, tuple(support), seed, W.device))
    return Accuracy(right / points, *wilson_interval(right, points), margin, "sampled")


def _sample_points(
    samples: int, d: int, support: tuple[int, ...], seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    codes = random_codes(samples, d, stream_generator(seed, "evaluation", device))
    return codes, parity(codes, support)


_kept_points = lru_cache(maxsize=16)(_sample_points)  # a sweep evaluates the same seeds again and again


@lru_cache(maxsize=4)
def _half_cube(d: int, support: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    codes = all_codes(d, device)[: 2 ** (d - 1)]
    return codes, parity(codes, support)


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
    W: Float[Tensor, "m d"], a: Float[Tensor, "m"], k: int, codes: UInt8[Tensor, "n bytes"], y: Float[Tensor, "n"]
) -> tuple[int, float, int]:
    margins = packed_values(W, a, k, codes) * y
    return int((margins > 0).sum()), float(margins.min()) / len(W), len(y)


def _certify(W: Float[Tensor, "m d"], a: Float[Tensor, "m"], support: Sequence[int]) -> Accuracy | None:
    """Enumerate the feature patterns; |(u + v)^k - u^k| <= k |v| (|u| + |v|)^(k-1) with |v| <= the noise's l1 norm."""
    if len(support) > 16:
        return None
    wide = W.detach().to("cpu", torch.float64).numpy()
    features = np.ascontiguousarray(wide[:, list(support)])
    noise = np.abs(wide).sum(1) - np.abs(features).sum(1)
    certain, right, margin = _certain_patterns(features, noise, a.to("cpu", torch.float64).numpy())
    value = right / 2 ** len(support)
    return Accuracy(value, value, value, margin / len(W), "certified") if certain else None


@compiled()
def _certain_patterns(features, noise, a):  # type: ignore[no-untyped-def]
    """Whether noise changes the sign of no pattern, how many are right, and the smallest margin noise leaves."""
    m, k = features.shape
    right, smallest = 0, np.inf
    for pattern in range(1 << k):
        f, change, y = 0.0, 0.0, 1
        for j in range(k):
            y *= 1 - 2 * ((pattern >> j) & 1)
        for r in range(m):
            u = 0.0
            for j in range(k):
                u += features[r, j] * (1 - 2 * ((pattern >> j) & 1))
            power, reach = 1.0, 1.0
            for _ in range(k - 1):
                power *= u
                reach *= abs(u) + noise[r]
            f += a[r] * power * u
            change += k * noise[r] * reach * abs(a[r])
        if not change < abs(f):
            return False, 0, 0.0
        right += y * f > 0
        smallest = min(smallest, y * f - change)
    return True, right, smallest


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; sensible also at 0 and 1."""
    z = float(ndtri(0.5 + confidence / 2))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
