"""Good and bad neurons: the outcome of training read off the initial weights, and the support off the trained ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from shared_core.errors import InputError
from torch import Tensor

from parity_sgd.codes import all_codes, unpack
from parity_sgd.network import integer_power

MAX_K = 10
"""The 2^k by 2^k table of patterns is made up to here."""


def is_good(W0: Float[Tensor, "... m d"], a: Float[Tensor, "... m"], support: Sequence[int]) -> Bool[Tensor, "... m"]:
    """a_r prod_{j in S} sign(w_rj) = +1: the population gradient then keeps every feature where it is."""
    return a * torch.sign(W0[..., list(support)]).prod(-1) > 0


@dataclass(frozen=True)
class Outcome:
    """What training ends in, read off the initial weights.

    Args:
        accuracy: share of the 2^k feature patterns that are classified right; a tie f = 0 is an error.
        ties: share of patterns with f = 0 exactly (even k only), which what is left of the noise decides either way:
            training ends between `accuracy` and `accuracy + ties`.
        margin: smallest y f(x) / m over the patterns; the mean over starts is k!/2.
        good: number of good neurons.
    """

    accuracy: float
    ties: float
    margin: float
    good: int


def predict_outcome(W0: Float[Tensor, "m d"], a: Float[Tensor, "m"], support: Sequence[int]) -> Outcome:
    """Accuracy after training with enough data, without training: only good neurons survive, and keep their features.

    F(p) = prod(p) sum_{good r} a_r <w_{r,S}(0), p>^k for each of the 2^k feature patterns p.
    """
    k = len(support)
    patterns = unpack(all_codes(k, W0.device), k)
    good = is_good(W0, a, support)
    features = torch.sign(W0[:, list(support)].to(torch.float32))
    values = integer_power(patterns @ features.T, k) @ (a.to(torch.float32) * good)
    margins = patterns.prod(1) * values
    return Outcome(
        accuracy=(margins > 0).float().mean().item(),
        ties=(margins == 0).float().mean().item(),
        margin=margins.min().item() / len(W0) + 0.0,  # not -0
        good=int(good.sum()),
    )


@lru_cache(maxsize=64)
def success_probability(k: int, m: int, draws: int = 4000, seed: int = 0) -> float:
    """Probability that a random start of width m ends in a perfect classifier (infinite data), by `draws` draws.

    A good neuron's pattern b is uniform on {-1, 1}^k and contributes prod(b) prod(p) <b, p>^k to F(p), so only the
    multinomial counts of the patterns have to be drawn.
    """
    if k > MAX_K:
        raise InputError(f"the 2^k by 2^k table of patterns is made up to k = {MAX_K}, got k = {k}")
    patterns = unpack(all_codes(k), k).numpy().astype(np.float64)
    kernel = np.outer(patterns.prod(1), patterns.prod(1)) * (patterns @ patterns.T) ** k
    rng = np.random.default_rng(seed)
    wins = 0
    block = max(1, 2**22 // 4**k)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        good = rng.binomial(m, 0.5, size=size)
        counts = rng.multinomial(good, np.full(2**k, 0.5**k))
        wins += int(((counts @ kernel) > 0).all(axis=1).sum())
    return wins / draws


def smallest_width(k: int, probability: float = 0.95, draws: int = 4000, seed: int = 0) -> int:
    """Smallest width, on a grid of factors 1.1 from 2^k, whose starts succeed with at least the given probability.

    Found by bisection: the probability grows with the width.
    """

    def enough(step: int) -> bool:
        return success_probability(k, round(2**k * 1.1**step), draws, seed) >= probability

    low, high = 0, 8
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return round(2**k * 1.1**high)


def default_width(k: int) -> int:
    """max(16 * 2^k, 4^k): measured to succeed with probability above 0.99 for k up to 6."""
    return max(16 * 2**k, 4**k)


@dataclass(frozen=True)
class RecoveredSupport:
    """The k coordinates with the largest mean |w| over neurons.

    Args:
        support: recovered coordinates, ascending.
        scores: mean_r |w_rj| of every coordinate.
        gap: smallest score inside the support minus the largest outside.
    """

    support: tuple[int, ...]
    scores: tuple[float, ...]
    gap: float


def recover_support(W: Float[Tensor, "m d"], k: int) -> RecoveredSupport:
    """Read the support off trained weights.

    Raises:
        InputError: unless 1 <= k <= d.
    """
    d = W.shape[1]
    if not 1 <= k <= d:
        raise InputError(f"k must be in 1..d = 1..{d}, got {k}")
    scores = W.detach().abs().mean(0)
    values, order = scores.sort(descending=True, stable=True)
    gap = float(values[k - 1] - values[k]) if k < d else float(values[k - 1])
    return RecoveredSupport(tuple(sorted(order[:k].tolist())), tuple(scores.tolist()), gap)
