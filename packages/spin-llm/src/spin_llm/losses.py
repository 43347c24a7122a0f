"""The objectives: SPIN with its four links, its bounded variant, DPO and maximum likelihood.

All of them are functions of sequence log-probabilities in nats, summed over response tokens.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from spin_llm.choices import LossType

Link = Literal["logistic", "hinge", "exponential", "correlation"]

# Convex, decreasing, slope at 0 below 0: all that the theory asks of a link (paper: section 4).
LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda u: F.softplus(-u),
    "hinge": lambda u: F.relu(1 - u),
    "exponential": lambda u: torch.exp(-u),
    "correlation": lambda u: 1 - u,
}
LINK_AT_ZERO = {"logistic": 0.6931471805599453, "hinge": 1.0, "exponential": 1.0, "correlation": 1.0}
LINK_SLOPE_AT_ZERO = {"logistic": -0.5, "hinge": -1.0, "exponential": -1.0, "correlation": -1.0}


def spin_margins(
    policy_real: Float[Tensor, "pairs"],
    policy_generated: Float[Tensor, "pairs"],
    opponent_real: Float[Tensor, "pairs"],
    opponent_generated: Float[Tensor, "pairs"],
    beta: float,
) -> Float[Tensor, "pairs"]:
    """What the main player tells the real response from the opponent's by (paper: the argument of l in eq. 4.7).

    u = beta [log p(y|x) - log p_t(y|x)] - beta [log p(y'|x) - log p_t(y'|x)], beta being the paper's lambda.

    Raises:
        InputError: unless beta > 0.
    """
    if not beta > 0:
        raise InputError(f"beta (the paper's lambda) must be positive, got {beta:g}")
    return beta * ((policy_real - opponent_real) - (policy_generated - opponent_generated))


def spin_loss(
    policy_real: Float[Tensor, "pairs"],
    policy_generated: Float[Tensor, "pairs"],
    opponent_real: Float[Tensor, "pairs"],
    opponent_generated: Float[Tensor, "pairs"],
    beta: float = 0.1,
    loss_type: LossType = "logistic",
) -> Float[Tensor, "pairs"]:
    """The SPIN objective of each pair (paper: eq. 4.7), l(u) with u of `spin_margins`.

    `nce` is not the paper's: -log sigma(u(y)) - log sigma(-u(y')) with u = beta log(p / p_t), which tells real from
    generated responses one at a time. Both terms are bounded below, the real response cannot lose likelihood to widen
    a margin, and at beta = 1 its population minimiser is p_data after one iteration.

    Args:
        policy_real: log p(y|x) of the model that is trained.
        policy_generated: log p(y'|x) of the same.
        opponent_real: log p_t(y|x), no gradient.
        opponent_generated: log p_t(y'|x), no gradient.
        beta: the paper's lambda.
        loss_type: the link l, or `nce`.

    Raises:
        InputError: unless beta > 0 and the loss is known.
    """
    if loss_type == "nce":
        if not beta > 0:
            raise InputError(f"beta (the paper's lambda) must be positive, got {beta:g}")
        real, generated = policy_real - opponent_real, policy_generated - opponent_generated
        return F.softplus(-beta * real) + F.softplus(beta * generated)
    if loss_type not in LINKS:
        raise InputError(f"loss_type must be one of {', '.join([*LINKS, 'nce'])}, got {loss_type!r}")
    return LINKS[loss_type](spin_margins(policy_real, policy_generated, opponent_real, opponent_generated, beta))


def dpo_loss(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    reference_chosen: Float[Tensor, "pairs"],
    reference_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
) -> Float[Tensor, "pairs"]:
    """Direct preference optimisation on given pairs, the paper's baseline: the logistic link, the reference kept."""
    return spin_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)


def geometric_mixture(
    opponent: Float[Tensor, "pairs"], base: Float[Tensor, "pairs"], weight: float
) -> Float[Tensor, "pairs"]:
    """log of p_t^(1 - w) p_0^w, up to the prompt's constant, which a margin does not see (arXiv 2404.04291).

    Args:
        opponent: log p_t(y|x).
        base: log p_0(y|x) of the model before self-play.
        weight: w in [0, 1); 0 is plain SPIN.

    Raises:
        InputError: unless 0 <= weight < 1.
    """
    if not 0 <= weight < 1:
        raise InputError(f"base_weight must be in [0, 1), got {weight:g}")
    return (1 - weight) * opponent + weight * base


def contraction_factor(beta: float) -> float:
    """|1 - 1/beta|: by this an exactly minimised iteration multiplies log p_t - log p_data (from Theorem 5.4, ours).

    Below 1 self-play converges, 0 (beta = 1) at once; beta < 1/2 overshoots and diverges unless each iteration is
    stopped far from its minimiser, as the paper's 0.1 with a learning rate of 5e-7 is.

    Raises:
        InputError: unless beta is above 0.
    """
    if not beta > 0:
        raise InputError(f"beta must be above 0, got {beta}")
    return abs(1 - 1 / beta)
