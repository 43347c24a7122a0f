"""The exact objective (paper: eq. 4.8) on whole trajectories of the reverse chain, and the two-pass trick.

A transition's squared distance is an error of eps: with x_{t-1} and x_t given, ||x_{t-1} - mu(x_t)||^2 equals
h_t^2 ||eps_theta(x_t) - e||^2 for e = (x_{t-1} - sqrt(alpha_{t-1} / alpha_t) x_t) / h_t. Every step of a chain is
therefore asked of the network as an ordinary denoising error with a target of its own.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from spin_diffusion.losses import LINKS, Link, denoising_error
from spin_diffusion.schedules import NoiseSchedule

# x_t and the chain's step (0 is the noisiest) -> what the network predicts
Predict = Callable[[Tensor, int], Tensor]


class ReverseChain:
    """Transitions p(x_{t-1} | x_t) = N(mu(x_t), sigma_t^2) of the DDIM family along some timesteps.

    mu = sqrt(alpha_{t-1} / alpha_t) x_t + h_t eps(x_t),
    h_t = sqrt(1 - alpha_{t-1} - sigma_t^2) - sqrt(alpha_{t-1} / alpha_t) sqrt(1 - alpha_t).

    Args:
        schedule: alphas and what the network predicts.
        timesteps: indices from noisy to clean.
        eta: 1 is DDPM's posterior variance; 0 has none, and no trajectory objective.
        final_alpha: of x_0.
        variance_floor: least sigma^2; by default the last step, whose own is 0, is given that of the step before.

    Raises:
        InputError: unless the timesteps fall and eta is in (0, 1].
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Sequence[int],
        eta: float = 1.0,
        final_alpha: float = 1.0,
        variance_floor: float | None = None,
    ) -> None:
        if not 0 < eta <= 1:
            raise InputError(f"a chain of the trajectory objective needs eta in (0, 1], got {eta:g}")
        if len(timesteps) < 2 or any(later >= earlier for earlier, later in pairwise(timesteps)):
            raise InputError("a chain needs two timesteps at least, from noisy to clean")
        self.schedule, self.timesteps = schedule, torch.as_tensor(timesteps, dtype=torch.long)
        self.alpha = schedule.alphas_cumprod[self.timesteps]
        self.alpha_before = torch.cat([self.alpha[1:], torch.tensor([final_alpha], dtype=torch.float64)])
        variance = eta**2 * (1 - self.alpha_before) / (1 - self.alpha) * (1 - self.alpha / self.alpha_before)
        floor = float(variance[-2]) if variance_floor is None and float(variance[-1]) == 0 else variance_floor or 0.0
        self.variance = variance.clamp(min=floor)
        # a floored variance may exceed what x_{t-1} has in all: then nothing of the old noise is kept
        kept = (1 - self.alpha_before - self.variance).clamp(min=0).sqrt()
        self.scale = (self.alpha_before / self.alpha).sqrt()
        self.h = kept - self.scale * (1 - self.alpha).sqrt()
        self.kept = kept

    def __len__(self) -> int:
        return len(self.timesteps)

    def eps(self, x: Tensor, predicted: Tensor, step: int) -> Tensor:
        """The noise that a prediction implies at x_t."""
        alpha = float(self.alpha[step])
        if self.schedule.prediction == "epsilon":
            return predicted
        if self.schedule.prediction == "v_prediction":
            return alpha**0.5 * predicted + (1 - alpha) ** 0.5 * x
        return (x - alpha**0.5 * predicted) / (1 - alpha) ** 0.5

    def prediction(self, x: Tensor, eps: Tensor, step: int) -> Tensor:
        """The prediction that implies this noise at x_t."""
        alpha = float(self.alpha[step])
        if self.schedule.prediction == "epsilon":
            return eps
        if self.schedule.prediction == "v_prediction":
            return (eps - (1 - alpha) ** 0.5 * x) / alpha**0.5
        return (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5

    def mean(self, x: Tensor, predicted: Tensor, step: int) -> Tensor:
        """mu(x_t)."""
        return float(self.scale[step]) * x + float(self.h[step]) * self.eps(x, predicted, step)

    def target(self, x: Tensor, before: Tensor, step: int) -> Tensor:
        """What the network would have to predict at x_t for mu to be x_{t-1}."""
        return self.prediction(x, (before - float(self.scale[step]) * x) / float(self.h[step]), step)

    @property
    def term_weights(self) -> Float[Tensor, "step"]:
        """h^2 / (2 sigma^2), times what turns errors of the network's target into errors of eps.

        Errors are sums over elements: a mean is to be multiplied by their number.
        """
        return self.h**2 / (2 * self.variance) * self.schedule.eps_factor[self.timesteps]

    def sample(self, predict: Predict, noises: Float[Tensor, "step_plus_1 batch *shape"]) -> Tensor:
        """x_T, ..., x_0 of the player itself, by ancestral sampling.

        Args:
            predict: the network's prediction at x_t and step.
            noises: standard normal: x_T, then the noise of each transition.
        """
        states = [noises[0]]
        for step in range(len(self)):
            mean = self.mean(states[-1], predict(states[-1], step), step)
            states.append(mean + float(self.variance[step]) ** 0.5 * noises[step + 1])
        return torch.stack(states)

    def posterior(self, x0: Tensor, noises: Float[Tensor, "step_plus_1 batch *shape"]) -> Tensor:
        """x_T, ..., x_0 of a real sample: x_T ~ q(x_T | x_0), then q(x_{t-1} | x_t, x_0), and x_0 itself."""
        first = float(self.alpha[0])
        states = [first**0.5 * x0 + (1 - first) ** 0.5 * noises[0]]
        for step in range(len(self) - 1):
            alpha, before = float(self.alpha[step]), float(self.alpha_before[step])
            eps = (states[-1] - alpha**0.5 * x0) / (1 - alpha) ** 0.5
            mean = before**0.5 * x0 + float(self.kept[step]) * eps
            states.append(mean + float(self.variance[step]) ** 0.5 * noises[step + 1])
        return torch.stack([*states, x0])


def trajectory_terms(
    predict: Predict, chain: ReverseChain, trajectory: Float[Tensor, "step_plus_1 batch *shape"]
) -> Float[Tensor, "step batch"]:
    """||x_{t-1} - mu(x_t)||^2 / (2 sigma_t^2) of every transition."""
    return torch.stack([_term(predict, chain, trajectory, step) for step in range(len(chain))])


def trajectory_spin_loss(
    predict: Predict,
    reference: Predict,
    chain: ReverseChain,
    real: Float[Tensor, "step_plus_1 batch *shape"],
    synthetic: Float[Tensor, "step_plus_1 batch *shape"],
    *,
    lam: float,
    link: Link = "logistic",
) -> Float[Tensor, ""]:
    """The exact objective (paper: eq. 4.8), all transitions inside one link.

    Args:
        predict: of the player that is trained.
        reference: of the frozen opponent.
        chain: the reverse process.
        real: trajectories of real samples (`ReverseChain.posterior`).
        synthetic: the opponent's own (`ReverseChain.sample`).
        lam: the paper's lambda; errors are sums over elements.
        link: l.
    """
    ours = trajectory_terms(predict, chain, real) - trajectory_terms(predict, chain, synthetic)
    with torch.no_grad():
        theirs = trajectory_terms(reference, chain, real) - trajectory_terms(reference, chain, synthetic)
    return LINKS[link](-lam * (ours - theirs).sum(0)).mean()


def backward_trajectory_loss(
    predict: Predict,
    reference: Predict,
    chain: ReverseChain,
    real: Float[Tensor, "step_plus_1 batch *shape"],
    synthetic: Float[Tensor, "step_plus_1 batch *shape"],
    *,
    lam: float,
    link: Link = "logistic",
) -> Float[Tensor, ""]:
    """The loss and gradient of `trajectory_spin_loss` in the memory of one transition.

    A first pass without gradient computes z of each pair; a second one goes back through one transition at a time with
    l'(z) as its fixed weight. Arguments are those of `trajectory_spin_loss`.
    """
    with torch.no_grad():
        ours = trajectory_terms(predict, chain, real) - trajectory_terms(predict, chain, synthetic)
        theirs = trajectory_terms(reference, chain, real) - trajectory_terms(reference, chain, synthetic)
        z = -lam * (ours - theirs).sum(0)
    losses, slopes = link_and_slope(z, link)
    for step in range(len(chain)):
        term = _term(predict, chain, real, step) - _term(predict, chain, synthetic, step)
        (slopes * -lam * term).mean().backward()
    return losses.mean()


def link_and_slope(z: Float[Tensor, "pair"], link: Link) -> tuple[Tensor, Tensor]:
    """l(z) and l'(z)."""
    with torch.enable_grad():
        given = z.detach().requires_grad_()
        losses = LINKS[link](given)
        (slopes,) = torch.autograd.grad(losses.sum(), given)
    return losses.detach(), slopes


def _term(predict: Predict, chain: ReverseChain, trajectory: Tensor, step: int) -> Tensor:
    x, before = trajectory[step], trajectory[step + 1]
    error = denoising_error(predict(x, step), chain.target(x, before, step))
    return float(chain.term_weights[step]) * x[0].numel() * error
