"""Self-play where everything can be summed: tables of logits, few prompts, the population loss (paper: section 5)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from spin_llm.choices import LossType
from spin_llm.losses import LINK_SLOPE_AT_ZERO, LINKS, spin_loss

Table = Float[Tensor, "prompt response"]  # log-probabilities, each row a law


def population_loss(
    policy: Table, opponent: Table, data: Table, beta: float, loss_type: LossType = "logistic"
) -> Tensor:
    """E l(u(x, y, y')) over prompts (uniform), y ~ data, y' ~ opponent: eq. 4.7 without sampling.

    Args:
        policy: log p(y|x) of the main player, normalised.
        opponent: log p_t(y|x).
        data: log p_data(y|x).
        beta: the paper's lambda.
        loss_type: the link.
    """
    real, generated = policy[:, :, None], policy[:, None, :]
    losses = spin_loss(real, generated, opponent[:, :, None], opponent[:, None, :], beta, loss_type)
    return torch.einsum("pr,prg,pg->p", data.exp(), losses, opponent.exp()).mean()


def predicted_player(opponent: Table, data: Table, beta: float) -> Table:
    """Theorem 5.4: the minimiser is p_t (p_data / p_t)^(1/beta), normalised."""
    return (opponent + (data - opponent) / beta).log_softmax(-1)


def best_player(
    opponent: Table, data: Table, beta: float, loss_type: LossType = "logistic", iterations: int = 2000
) -> Table:
    """The minimiser of the population loss over all tables, by L-BFGS from the opponent and two steps of Newton."""

    def loss_of(logits: Tensor) -> Tensor:
        return population_loss(logits.reshape(opponent.shape).log_softmax(-1), opponent, data, beta, loss_type)

    logits = opponent.flatten().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=iterations, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe",
        history_size=50,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(logits)
        loss.backward()
        return loss

    optimizer.step(closure)
    # L-BFGS ends where differences of losses round to 0, which is at about 1e-7 in the logits
    for _ in range(2):
        curvature = torch.autograd.functional.hessian(loss_of, logits.detach())
        (slope,) = torch.autograd.grad(loss_of(logits), logits)
        # adding a constant to a row changes nothing, so the curvature has null directions
        step = torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True) @ slope
        logits = (logits.detach() - step).requires_grad_()
    return logits.detach().reshape(opponent.shape).log_softmax(-1)


def centred_error(policy: Table, data: Table) -> Table:
    """log p - log p_data, centred over the responses of each prompt: what an iteration multiplies by 1 - 1/beta."""
    error = policy - data
    return error - error.mean(-1, keepdim=True)


def error_factor(policy: Table, opponent: Table, data: Table) -> float:
    """Least-squares factor from the opponent's centred error to the player's."""
    before, after = centred_error(opponent, data), centred_error(policy, data)
    return float((before * after).sum() / before.square().sum())


def divergence(one: Table, other: Table) -> Tensor:
    """KL(one || other), the mean over prompts, in nats."""
    return (one.exp() * (one - other)).sum(-1).mean()


@dataclass(frozen=True)
class SlopeIdentity:
    """The core of Theorem 5.2's necessity: both sides of the derivative at beta = 0 of the loss of p_data."""

    measured: float
    predicted: float


def slope_at_zero(opponent: Table, data: Table, loss_type: LossType = "logistic") -> SlopeIdentity:
    """d/dbeta L(p_data, p_t) at beta = 0 = l'(0) [KL(p_data || p_t) + KL(p_t || p_data)], by autograd."""
    gap = data - opponent
    beta = torch.zeros((), dtype=data.dtype, requires_grad=True)
    u = beta * (gap[:, :, None] - gap[:, None, :])
    weights = data.exp()[:, :, None] * opponent.exp()[:, None, :]
    loss = (weights * LINKS[loss_type](u)).sum((1, 2)).mean()
    (measured,) = torch.autograd.grad(loss, beta)
    predicted = LINK_SLOPE_AT_ZERO[loss_type] * (divergence(data, opponent) + divergence(opponent, data))
    return SlopeIdentity(float(measured), float(predicted))


def gradient_identity(
    opponent: Table, data: Table, beta: float, loss_type: LossType = "logistic"
) -> tuple[Tensor, Tensor]:
    """At theta = theta_t: gradient of the SPIN loss, and beta |l'(0)| times that of the data's NLL; they are equal."""
    logits = opponent.clone().requires_grad_()
    policy = logits.log_softmax(-1)
    (spin,) = torch.autograd.grad(population_loss(policy, opponent, data, beta, loss_type), logits, retain_graph=True)
    nll = -(data.exp() * policy).sum(-1).mean()
    (likelihood,) = torch.autograd.grad(nll, logits)
    return spin, beta * abs(LINK_SLOPE_AT_ZERO[loss_type]) * likelihood


def random_table(prompts: int, responses: int, generator: torch.Generator, spread: float = 1.0) -> Table:
    """Normal logits, normalised, in float64."""
    logits = torch.randn(prompts, responses, generator=generator, dtype=torch.float64)
    return (spread * logits).log_softmax(-1)
