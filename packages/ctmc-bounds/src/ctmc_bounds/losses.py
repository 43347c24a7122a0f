"""Score entropy and its denoising form: what a network is trained on, and what the bounds charge for."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ctmc_bounds.arrays import like_input, real
from ctmc_bounds.divergences import bregman
from ctmc_bounds.estimators import log_scores
from ctmc_bounds.forward import decay, move
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.parametrisation import per_sample


def score_entropy(marginals: Marginals, t: float, estimator: Any, frozen_time: float | None = None) -> float:
    """L_SE(t) = E_{x ~ q_t} sum_{i, c != x_i} (1/S) D_I(s_t(x)[i,c] || s_hat(x)[i,c]), exactly.

    Args:
        marginals: of the data.
        t: time of the true score.
        estimator: of the score; None is the exact one.
        frozen_time: time at which the estimate is taken, t by default.
    """
    log_hat = log_scores(marginals, t if frozen_time is None else frozen_time, estimator)
    return expected_bregman(marginals, t, log_hat)


def expected_bregman(marginals: Marginals, t: float, log_hat: Tensor) -> float:
    """E_{q_t} (1/S) sum over moves of D_I(s_t || exp(log_hat))."""
    space, log_q = marginals.space, marginals.log_q(t)
    there = torch.isfinite(log_q)  # a state without probability is not visited
    loss = (bregman(space.log_scores(log_q), log_hat) * space.multiplicity).sum(-1) / space.S
    weight = torch.exp(log_q + space.log_size)
    return float(torch.where(there, weight * loss, 0.0).sum())


@like_input
def denoising_score_entropy(score: Any, x0: Any, x: Any, t: Any) -> Float[Tensor, " batch"]:
    """sum_{i, c != x_i} (1/S) D_I(r || s_hat), r = K_t(x0_i, c) / K_t(x0_i, x_i); unbiased for L_SE up to a constant.

    Args:
        score: s_hat_t(x), (batch, d, S).
        x0: clean tokens (batch, d).
        x: noised tokens (batch, d).
        t: a time, or one per sample.
    """
    score, time = real(score), per_sample(t)
    S = score.shape[-1]
    clean = torch.nn.functional.one_hot(x0.long(), S).to(torch.float64)
    row = decay(time) * clean + move(time, S)
    log_r = torch.log(row) - torch.log(row.gather(-1, x.long().unsqueeze(-1)))
    return bregman(log_r, torch.log(score)).sum((-1, -2)) / S


@like_input
def posterior_cross_entropy(log_cavity: Any, x0: Any, x: Any, t: Any) -> Float[Tensor, " batch"]:
    """-sum_i log w(x0_i), w(a) proportional to mu(a) K_t(a, x_i): smallest where mu is the true cavity law.

    Args:
        log_cavity: log mu, (batch, d, S), normalised or not.
        x0: clean tokens (batch, d).
        x: noised tokens (batch, d).
        t: a time, or one per sample.
    """
    time = per_sample(t)
    S = log_cavity.shape[-1]
    noisy = torch.nn.functional.one_hot(x.long(), S).to(torch.float64)
    log_w = torch.log_softmax(log_cavity + torch.log(decay(time) * noisy + move(time, S)), -1)
    return -log_w.gather(-1, x0.long().unsqueeze(-1)).sum((-1, -2))
