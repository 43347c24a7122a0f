"""Score, posterior and cavity: three ways to say what the reverse process needs, and the maps between them.

For a token x_i = b at time t, with K = K_t (one-token kernel), all of shape (batch, d, S):
    score      s[i, c]  = q_t(x^{i->c}) / q_t(x)
    posterior  w[i, a]  = P(x0_i = a | x_t = x)
    cavity     mu[i, a] = P(x0_i = a | x_t without coordinate i)
A cavity law of any quality gives a score within b_t/a_t .. a_t/b_t, so that every envelope holds for it.
"""

from typing import Any

import torch
from torch import Tensor

from ctmc_bounds.arrays import like_input, real
from ctmc_bounds.forward import decay, move


def per_sample(t: Any, ndim: int = 3) -> Tensor:
    """A time, or one per sample, shaped to broadcast against (batch, d, S)."""
    t = real(t)
    return t.reshape(-1, *[1] * (ndim - 1)) if t.ndim else t


def _own(values: Tensor, x: Tensor) -> Tensor:
    return values.gather(-1, x.unsqueeze(-1))


def set_own(values: Tensor, x: Tensor, value: float) -> Tensor:
    """`values` with the entries c = x_i replaced by `value` (1 in a score, 0 in rates)."""
    return values.scatter(-1, x.unsqueeze(-1), value)


@like_input
def cavity_to_score(mu: Any, x: Any, t: Any) -> Any:
    """s[i, c] = (e^{-t} mu(c) + b_t) / (e^{-t} mu(x_i) + b_t)."""
    mu, t = real(mu), per_sample(t).to(mu.device)
    noisy = decay(t) * mu + move(t, mu.shape[-1])
    return noisy / _own(noisy, x.long())


@like_input
def score_to_posterior(s: Any, x: Any, t: Any) -> Any:
    """w(a) = K(a, x_i) [e^t s(a) - (e^t - 1)/S sum_c s(c)]; sums to 1, negative only where s is no score of any law."""
    s, t = real(s), per_sample(t).to(s.device)
    S = s.shape[-1]
    inverse = torch.exp(t) * s - torch.expm1(t) / S * s.sum(-1, keepdim=True)
    return _kernel_to(x.long(), t, S) * inverse


@like_input
def posterior_to_score(w: Any, x: Any, t: Any) -> Any:
    """s[i, c] = sum_a w(a) K(a, c) / K(a, x_i)."""
    w, t = real(w), per_sample(t).to(w.device)
    S = w.shape[-1]
    weighted = w / _kernel_to(x.long(), t, S)
    return decay(t) * weighted + move(t, S) * weighted.sum(-1, keepdim=True)


@like_input
def cavity_to_posterior(mu: Any, x: Any, t: Any) -> Any:
    """w(a) proportional to mu(a) K(a, x_i)."""
    mu, t = real(mu), per_sample(t).to(mu.device)
    weighted = mu * _kernel_to(x.long(), t, mu.shape[-1])
    return weighted / weighted.sum(-1, keepdim=True)


@like_input
def posterior_to_cavity(w: Any, x: Any, t: Any) -> Any:
    """mu(a) proportional to w(a) / K(a, x_i)."""
    w, t = real(w), per_sample(t).to(w.device)
    weighted = w / _kernel_to(x.long(), t, w.shape[-1])
    return weighted / weighted.sum(-1, keepdim=True)


@like_input
def score_to_cavity(s: Any, x: Any, t: Any) -> Any:
    """Through the posterior: mu(a) proportional to e^t s(a) - (e^t - 1)/S sum_c s(c)."""
    s, t = real(s), per_sample(t).to(s.device)
    inverse = torch.exp(t) * s - torch.expm1(t) / s.shape[-1] * s.sum(-1, keepdim=True)
    return inverse / inverse.sum(-1, keepdim=True)


def _kernel_to(x: Tensor, t: Tensor, S: int) -> Tensor:
    """K_t(a, x_i) for every a, shape (batch, d, S)."""
    base = (move(t, S) + torch.zeros(*x.shape, S, dtype=torch.float64, device=x.device)).contiguous()
    kept = (decay(t) + torch.zeros(*x.shape, 1, dtype=torch.float64, device=x.device)).contiguous()
    return base.scatter_add(-1, x.unsqueeze(-1), kept)
