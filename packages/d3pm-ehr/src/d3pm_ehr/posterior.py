"""q(x_s | x_t, x_0) and the two parametrisations of p(x_s | x_t), s < t, in closed form for Q = keep I + rank one.

Q_{t|s} = keep I + (1 - keep) 1 pi^T with keep = abar_t / abar_s, Qbar_t = abar_t I + (1 - abar_t) 1 pi^T, hence

    q(x_s = j | x_t = a, x_0 = b) = Q_{t|s}[j, a] Qbar_s[b, j] / Qbar_t[b, a],
    mixture:  r(j) = sum_b p(b) q(x_s = j | a, b),
    joint:    r(j) proportional to Q_{t|s}[j, a] sum_b p(b) Qbar_s[b, j].

Both cost O(K): no K x K matrix is built. For K = 2 the posterior is one number and the mixture one interpolation.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Steps(NamedTuple):
    """The coefficients of a pair s < t, computed in float64 and cast once; scalars, or one a record."""

    keep: Tensor  # abar_t / abar_s
    drop: Tensor  # 1 - keep
    signal_s: Tensor  # abar_s
    noise_s: Tensor  # 1 - abar_s
    signal_t: Tensor  # abar_t
    noise_t: Tensor  # 1 - abar_t

    def extended(self, axes: int) -> "Steps":
        """With `axes` more axes of size one, to broadcast against columns (and levels)."""
        return Steps(*(item.reshape(item.shape + (1,) * axes) for item in self))


def steps_between(abar: Float[Tensor, "steps_plus_1"], s: Tensor, t: Tensor, dtype: torch.dtype) -> Steps:
    """Coefficients of `Steps` for times s < t (integers, any shape)."""
    at_s, at_t = abar[s], abar[t]
    keep = at_t / at_s
    return Steps(*(item.to(dtype) for item in (keep, 1 - keep, at_s, 1 - at_s, at_t, 1 - at_t)))


def binary_posterior(
    a: Tensor, b: Tensor | int, pi: Float[Tensor, "#columns"], steps: Steps
) -> Float[Tensor, "*batch columns"]:
    """q(x_s = 1 | x_t = a, x_0 = b) for K = 2.

    Args:
        a: x_t, zeros and ones.
        b: x_0, zeros and ones (or one value for all).
        pi: stationary probability of level 1.
        steps: coefficients that broadcast against `a`.
    """
    up = a.to(pi.dtype)
    pi_a = up * (2 * pi - 1) + (1 - pi)
    clean = b.to(pi.dtype) if isinstance(b, Tensor) else torch.full_like(pi, float(b))
    equal = up * (2 * clean - 1) + (1 - clean)
    to_a = steps.keep * up + steps.drop * pi_a
    from_b = steps.signal_s * clean + steps.noise_s * pi
    return to_a * from_b / (steps.signal_t * equal + steps.noise_t * pi_a)


def posterior(
    a: Int[Tensor, "*batch columns"],
    b: Int[Tensor, "*batch columns"],
    pi: Float[Tensor, "#columns levels"],
    steps: Steps,
) -> Float[Tensor, "*batch columns levels"]:
    """q(x_s = . | x_t = a, x_0 = b) for any K."""
    clean = torch.nn.functional.one_hot(b.long(), pi.shape[-1]).to(pi.dtype)
    return mixture(a, clean, pi, steps)


def mixture(
    a: Int[Tensor, "*batch columns"],
    p: Float[Tensor, "*batch columns levels"],
    pi: Float[Tensor, "#columns levels"],
    steps: Steps,
) -> Float[Tensor, "*batch columns levels"]:
    """r(j) = sum_b p(b) q(x_s = j | x_t = a, x_0 = b); right when p estimates p(x_0 | x_t)."""
    weights = p / qbar_to(a, pi, steps)
    return _times_q(a, weights, pi, steps)


def joint(
    a: Int[Tensor, "*batch columns"],
    p: Float[Tensor, "*batch columns levels"],
    pi: Float[Tensor, "#columns levels"],
    steps: Steps,
) -> Float[Tensor, "*batch columns levels"]:
    """r(j) proportional to Q[j, a] sum_b p(b) Qbar_s[b, j]; right when p is the token's law given the others."""
    r = _times_q(a, p, pi, steps)
    return r / r.sum(-1, keepdim=True)


def qbar_to(a: Int[Tensor, "*batch columns"], pi: Float[Tensor, "#columns levels"], steps: Steps) -> Tensor:
    """Qbar_t[b, a] for every b: [..., columns, levels]."""
    hot = torch.nn.functional.one_hot(a.long(), pi.shape[-1]).to(pi.dtype)
    pi_a = (hot * pi).sum(-1, keepdim=True)
    return steps.signal_t * hot + steps.noise_t * pi_a


def _times_q(a: Tensor, weights: Tensor, pi: Tensor, steps: Steps) -> Tensor:
    hot = torch.nn.functional.one_hot(a.long(), pi.shape[-1]).to(pi.dtype)
    to_a = steps.keep * hot + steps.drop * (hot * pi).sum(-1, keepdim=True)
    return to_a * (steps.signal_s * weights + steps.noise_s * pi * weights.sum(-1, keepdim=True))


def mixture_to_joint(
    p: Float[Tensor, "*batch columns levels"], a: Tensor, pi: Float[Tensor, "#columns levels"], steps: Steps
) -> Float[Tensor, "*batch columns levels"]:
    """p'(b) proportional to p(b) / Qbar_t[b, a]: joint with p' is the same map as mixture with p."""
    weights = p / qbar_to(a, pi, steps)
    return weights / weights.sum(-1, keepdim=True)


def joint_to_mixture(
    p: Float[Tensor, "*batch columns levels"], a: Tensor, pi: Float[Tensor, "#columns levels"], steps: Steps
) -> Float[Tensor, "*batch columns levels"]:
    """p(b) proportional to p'(b) Qbar_t[b, a], the inverse of `mixture_to_joint`."""
    weights = p * qbar_to(a, pi, steps)
    return weights / weights.sum(-1, keepdim=True)
