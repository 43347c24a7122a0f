"""The objectives on denoising errors: SPIN-Diffusion (paper: eq. 4.9) with its links, Diffusion-DPO, SFT.

All of them take one number a sample: the squared error of a network's prediction, averaged over the elements of the
latent. The paper's errors are sums, so its beta times the number of elements is the beta here (`beta_for_means`).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

Link = Literal["logistic", "hinge", "exponential", "correlation"]
BetaConvention = Literal["plain", "salesforce"]

# Convex, decreasing, slope at 0 below 0: all that the theory asks of a link (paper: Assumption 5.1).
LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda u: F.softplus(-u),
    "hinge": lambda u: F.relu(1 - u),
    "exponential": lambda u: torch.exp(-u),
    "correlation": lambda u: 1 - u,
}
LINK_AT_ZERO = {"logistic": 0.6931471805599453, "hinge": 1.0, "exponential": 1.0, "correlation": 1.0}
LINK_SLOPE_AT_ZERO = {"logistic": -0.5, "hinge": -1.0, "exponential": -1.0, "correlation": -1.0}


class SPINLossOutput(NamedTuple):
    """What a pair loss came to.

    Attributes:
        loss: mean over pairs of the link at `z`.
        losses: the same of each pair.
        z: argument of the link, [pair]; positive where the policy tells the real from the synthetic sample.
        d_real: policy's error on the real sample minus the reference's, [pair], without beta and weights.
        d_fake: the same on the synthetic sample.
        implicit_accuracy: share of pairs with z > 0; a z of exactly 0 counts one half.
    """

    loss: Float[Tensor, ""]
    losses: Float[Tensor, "pair"]
    z: Float[Tensor, "pair"]
    d_real: Float[Tensor, "pair"]
    d_fake: Float[Tensor, "pair"]
    implicit_accuracy: Float[Tensor, ""]


def denoising_error(
    prediction: Float[Tensor, "batch *shape"], target: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch"]:
    """Mean squared error of each sample over its elements, in float32 at least.

    Margins are small differences of these numbers, so that half precision would drown them.

    Raises:
        InputError: if the shapes differ (a network that also predicts a variance has twice the channels).
    """
    if prediction.shape != target.shape:
        raise InputError(
            f"the network predicts {tuple(prediction.shape)} where the target is {tuple(target.shape)}; "
            "networks with a learned variance cannot be trained here"
        )
    wide = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(wide) - target.to(wide)).square().flatten(1).mean(1)


def spin_loss(
    real_error: Float[Tensor, "pair"],
    synth_error: Float[Tensor, "pair"],
    real_ref_error: Float[Tensor, "pair"],
    synth_ref_error: Float[Tensor, "pair"],
    *,
    beta: float,
    link: Link = "logistic",
    weights: Float[Tensor, "pair"] | None = None,
    convention: BetaConvention = "plain",
) -> SPINLossOutput:
    """The approximate SPIN-Diffusion objective (paper: eq. 4.9).

    l(z) of each pair, then the mean over pairs, with z = -beta w [(e_real - e_real,ref) - (e_synth - e_synth,ref)].

    Args:
        real_error: of the network that is trained, on noised real samples (see `denoising_error`).
        synth_error: the same on noised samples of the opponent.
        real_ref_error: of the frozen opponent on the same noised real samples; no gradient.
        synth_ref_error: of the opponent on its own samples.
        beta: multiplies mean errors.
        link: l.
        weights: w, of each pair's timestep (`NoiseSchedule.weights`); 1 by default.
        convention: `salesforce` halves beta, as the public Diffusion-DPO code does; `plain` does not.

    Raises:
        InputError: unless beta > 0 and link and convention are known.
    """
    if link not in LINKS:
        raise InputError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    d_real, d_fake = real_error - real_ref_error, synth_error - synth_ref_error
    z = -effective_beta(beta, convention) * (d_real - d_fake)
    if weights is not None:
        z = z * weights
    losses = LINKS[link](z)
    with torch.no_grad():
        accuracy = ((z > 0).to(z.dtype) + 0.5 * (z == 0).to(z.dtype)).mean()
    return SPINLossOutput(losses.mean(), losses, z, d_real, d_fake, accuracy)


def dpo_loss(
    winner_error: Float[Tensor, "pair"],
    loser_error: Float[Tensor, "pair"],
    winner_ref_error: Float[Tensor, "pair"],
    loser_ref_error: Float[Tensor, "pair"],
    *,
    beta: float,
    weights: Float[Tensor, "pair"] | None = None,
    convention: BetaConvention = "plain",
) -> SPINLossOutput:
    """Diffusion-DPO (Wallace et al. 2023, eq. 14) on given pairs: the logistic link, the winner in the real's place.

    Args:
        winner_error: of the network that is trained, on the noised preferred sample.
        loser_error: on the other.
        winner_ref_error: of the frozen reference.
        loser_ref_error: of the frozen reference.
        beta: multiplies mean errors.
        weights: of each pair's timestep.
        convention: as in `spin_loss`.

    Raises:
        InputError: unless beta > 0.
    """
    return spin_loss(
        winner_error, loser_error, winner_ref_error, loser_ref_error,
        beta=beta, link="logistic", weights=weights, convention=convention,
    )  # fmt: skip


def sft_loss(error: Float[Tensor, "batch"], weights: Float[Tensor, "batch"] | None = None) -> Float[Tensor, ""]:
    """Denoising score matching (paper: L_DSM), the mean of weighted errors."""
    return (error if weights is None else weights * error).mean()


def effective_beta(beta: float, convention: BetaConvention) -> float:
    """The factor that multiplies mean errors under a convention.

    Raises:
        InputError: unless beta > 0 and the convention is known.
    """
    if not beta > 0:
        raise InputError(f"beta must be positive, got {beta:g}")
    if convention not in ("plain", "salesforce"):
        raise InputError(f"beta_convention must be plain or salesforce, got {convention!r}")
    return 0.5 * beta if convention == "salesforce" else beta


def beta_for_means(beta_of_sums: float, elements: int) -> float:
    """The beta of mean errors that equals a beta of summed errors over so many elements (an SD-1.5 latent: 16384)."""
    return beta_of_sums * elements
