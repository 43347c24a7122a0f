"""SPIN, Diffusion-DPO and SFT as objectives of the shared training loop, with what each reports."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from spin_diffusion.losses import BetaConvention, Link, SPINLossOutput, dpo_loss, spin_loss

# errors [member, item], the reference's, weights [item] -> loss of each item, and named values of each to report
Objective = Callable[[Tensor, Tensor | None, Tensor], tuple[Float[Tensor, "item"], dict[str, Tensor]]]


def spin_objective(beta: float, link: Link = "logistic", convention: BetaConvention = "plain") -> Objective:
    """Eq. (4.9) over pairs.

    Reported: `z`, `implicit_accuracy`, `d_real` and `d_fake` (the policy's error minus the reference's, apart, since
    the loss falls even where both explode), and `ref_real`, `ref_fake`.
    """

    def objective(errors: Tensor, reference: Tensor | None, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert reference is not None
        found = spin_loss(*errors, *reference, beta=beta, link=link, weights=weights, convention=convention)
        return found.losses, _values(found, reference)

    return objective


def dpo_objective(beta: float, convention: BetaConvention = "plain") -> Objective:
    """Diffusion-DPO: `real` is the preferred sample, `fake` the other, the reference is theta_0."""

    def objective(errors: Tensor, reference: Tensor | None, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert reference is not None
        found = dpo_loss(*errors, *reference, beta=beta, weights=weights, convention=convention)
        return found.losses, _values(found, reference)

    return objective


def sft_objective(errors: Tensor, reference: Tensor | None, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Denoising score matching (paper: L_DSM)."""
    return weights * errors[0], {"error": errors[0].detach()}


@torch.no_grad()
def _values(found: SPINLossOutput, reference: Tensor) -> dict[str, Tensor]:
    z = found.z.detach()
    return {
        "z": z,
        "implicit_accuracy": (z > 0).float() + 0.5 * (z == 0).float(),
        "d_real": found.d_real.detach(),
        "d_fake": found.d_fake.detach(),
        "ref_real": reference[0],
        "ref_fake": reference[1],
    }
