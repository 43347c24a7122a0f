"""SPIN, SFT and DPO as objectives of the shared training loop, with what each reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from spin_llm.choices import LossType
from spin_llm.losses import LINK_AT_ZERO, dpo_loss, geometric_mixture, spin_loss
from spin_llm.optimization import Objective
from spin_llm.packing import TokenIds

TIE = 1e-3  # nats; sums of some hundred float32 log-probabilities are not exacter


@dataclass(frozen=True)
class Demonstration:
    """A prompt and its real response: what SFT trains on."""

    id: str
    prompt: TokenIds
    real: TokenIds

    @property
    def responses(self) -> list[TokenIds]:
        """The one response."""
        return [self.real]


@dataclass(frozen=True)
class ScoredPair:
    """A prompt, its real response, the opponent's, and what the opponent (and the base model) thinks of both.

    Args:
        id: of the example.
        prompt: token ids.
        real: token ids of y.
        generated: token ids of y'.
        opponent_real: log p_t(y|x), nats.
        opponent_generated: log p_t(y'|x).
        base_real: log p_0(y|x), where the opponent is a mixture with the model before self-play.
        base_generated: log p_0(y'|x).
    """

    id: str
    prompt: TokenIds
    real: TokenIds
    generated: TokenIds
    opponent_real: float
    opponent_generated: float
    base_real: float = 0.0
    base_generated: float = 0.0

    @property
    def responses(self) -> list[TokenIds]:
        """Real and generated."""
        return [self.real, self.generated]

    @property
    def identical(self) -> bool:
        """Whether nothing tells the two responses apart; their loss is l(0) and has no gradient."""
        return tuple(self.real) == tuple(self.generated)


def spin_objective(
    beta: float, loss_type: LossType = "logistic", base_weight: float = 0.0, length_normalize: bool = False
) -> Objective[ScoredPair]:
    """Eq. 4.7 of the paper over pairs, and the values by which people follow a run.

    Reported a pair: `rewards/real` and `rewards/generated` (beta log p/p_t), `rewards/margins`, `rewards/accuracies`
    (ties count one half), `logps/real`, `logps/generated`, and the two terms of which the margin is made in
    expectation: `nll_gain` (nats by which the real response became likelier) and `kl/opponent`, an unbiased estimate
    of KL(p_t || p) in nats a response.
    """

    def objective(
        logprobs: Float[Tensor, "pair 2"], pairs: Sequence[ScoredPair]
    ) -> tuple[Float[Tensor, "pair"], dict[str, Tensor]]:
        opponent, base = _references(pairs, logprobs)
        reference = geometric_mixture(opponent, base, base_weight) if base_weight else opponent
        scale = _lengths(pairs, logprobs) if length_normalize else torch.ones_like(logprobs)
        policy, reference = logprobs / scale, reference / scale
        losses = spin_loss(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1], beta, loss_type)
        with torch.no_grad():
            rewards = beta * (policy - reference)
            margins = rewards[:, 0] - rewards[:, 1]
            gain = logprobs - opponent
            values = {
                "rewards/real": rewards[:, 0],
                "rewards/generated": rewards[:, 1],
                "rewards/margins": margins,
                "rewards/accuracies": accuracy(margins / beta),
                "logps/real": logprobs[:, 0].detach(),
                "logps/generated": logprobs[:, 1].detach(),
                "nll_gain": gain[:, 0],
                "kl/opponent": -gain[:, 1],
            }
        return losses, values

    return objective


def accuracy(margins: Float[Tensor, "pair"]) -> Float[Tensor, "pair"]:
    """1 where a margin is positive, 1/2 where it is 0 to rounding: so it is when player and opponent are the same."""
    ties = margins.abs() < TIE
    return torch.where(ties, 0.5, (margins > 0).float())


def sft_objective(
    logprobs: Float[Tensor, "item 1"], items: Sequence[Demonstration]
) -> tuple[Float[Tensor, "item"], dict[str, Tensor]]:
    """Maximum likelihood: -log p(y|x) of each response, over its number of tokens.

    Every example weighs the same, whatever its length.
    """
    losses = -logprobs[:, 0] / _counts([[item.real] for item in items], logprobs)[:, 0]
    return losses, {"logps/real": logprobs[:, 0].detach()}


def dpo_objective(beta: float) -> Objective[ScoredPair]:
    """DPO on given pairs: `real` is the chosen response, `generated` the rejected one, the opponent the reference."""

    def objective(
        logprobs: Float[Tensor, "pair 2"], pairs: Sequence[ScoredPair]
    ) -> tuple[Float[Tensor, "pair"], dict[str, Tensor]]:
        reference, _ = _references(pairs, logprobs)
        losses = dpo_loss(logprobs[:, 0], logprobs[:, 1], reference[:, 0], reference[:, 1], beta)
        _, values = spin_objective(beta)(logprobs.detach(), pairs)
        return losses, values

    return objective


def settled_loss(loss_type: LossType) -> Callable[[ScoredPair], float | None]:
    """The loss of a pair of equal responses, which is l(0) whatever the player and has no gradient; None for others.

    The bounded variant pulls at each response by itself, so there nothing is settled.
    """
    if loss_type == "nce":
        return lambda pair: None
    return lambda pair: LINK_AT_ZERO[loss_type] if pair.identical else None


def _references(pairs: Sequence[ScoredPair], like: Tensor) -> tuple[Tensor, Tensor]:
    opponent = [(pair.opponent_real, pair.opponent_generated) for pair in pairs]
    base = [(pair.base_real, pair.base_generated) for pair in pairs]
    return tuple(torch.tensor(values, dtype=like.dtype, device=like.device) for values in (opponent, base))  # type: ignore[return-value] # two of them


def _lengths(pairs: Sequence[ScoredPair], like: Tensor) -> Tensor:
    return _counts([pair.responses for pair in pairs], like)


def _counts(responses: Sequence[Sequence[TokenIds]], like: Tensor) -> Tensor:
    counts = [[len(response) for response in group] for group in responses]
    return torch.tensor(counts, dtype=like.dtype, device=like.device)
