"""One-dimensional Gaussian mixtures with the exact denoiser and exact draws: the game with an ideal sampler.

Here nothing but the objective decides where self-play ends: what the opponent generates is exactly its own mixture.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

PEAK = 1 / math.sqrt(2 * math.pi)


class MixtureDenoiser(nn.Module):
    """Noise prediction that is optimal for a mixture of Gaussians, with all its parameters trainable.

    eps(x, t) = sum_k r_k(x) sqrt(1 - alpha_t) (x - sqrt(alpha_t) m_k) / (alpha_t v_k + 1 - alpha_t), where r_k is the
    posterior probability of component k given x_t = x.

    Args:
        weights: of the components, positive; they are normalised.
        means, deviations: of the components.
        alphas_cumprod: alpha_t of every training timestep.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        weights: Float[Tensor, " components"],
        means: Float[Tensor, " components"],
        deviations: Float[Tensor, " components"],
        alphas_cumprod: Float[Tensor, " timesteps"],
    ) -> None:
        super().__init__()
        if not (weights.shape == means.shape == deviations.shape) or weights.ndim != 1:
            raise ValueError("weights, means and deviations must be vectors of one length")
        if (weights <= 0).any() or (deviations <= 0).any():
            raise ValueError("weights and deviations must be positive")
        self.register_buffer("alphas_cumprod", alphas_cumprod.double())
        self.logits = nn.Parameter(weights.double().log())
        self.means = nn.Parameter(means.double().clone())
        self.log_deviations = nn.Parameter(deviations.double().log())

    def forward(
        self, sample: Float[Tensor, "batch *dims"], timestep: Int[Tensor, " batch"], condition: Any = None
    ) -> Float[Tensor, "batch *dims"]:
        """The predicted noise; `condition` is ignored: there is one prompt."""
        alpha = self.alphas_cumprod[timestep].view(-1, *[1] * sample.ndim)
        x = sample.double().unsqueeze(-1)
        variances = alpha * (2 * self.log_deviations).exp() + 1 - alpha
        centred = x - alpha.sqrt() * self.means
        log_posterior = self.logits - 0.5 * (centred**2 / variances + variances.log())
        parts = (1 - alpha).sqrt() * centred / variances
        return (torch.softmax(log_posterior, -1) * parts).sum(-1)

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Exact samples of the mixture."""
        parts = torch.multinomial(torch.softmax(self.logits, 0), count, replacement=True, generator=generator)
        noise = torch.randn(count, dtype=torch.float64, generator=generator)
        return self.means[parts] + self.log_deviations.exp()[parts] * noise

    @torch.no_grad()
    def density(self, x: Float[Tensor, " points"]) -> Float[Tensor, " points"]:
        """Probability density of x_0."""
        deviations = self.log_deviations.exp()
        z = (x[:, None] - self.means) / deviations
        return (torch.softmax(self.logits, 0) * PEAK / deviations * torch.exp(-0.5 * z**2)).sum(1)


def total_variation(a: MixtureDenoiser, b: MixtureDenoiser, points: int = 20001) -> float:
    """Half the integral of |density difference|, by the trapezium rule on an interval that holds both."""
    reach = [(m.means.detach(), 9 * m.log_deviations.detach().exp()) for m in (a, b)]
    low, high = min((m - r).min().item() for m, r in reach), max((m + r).max().item() for m, r in reach)
    x = torch.linspace(low, high, points, dtype=torch.float64)
    return 0.5 * torch.trapezoid((a.density(x) - b.density(x)).abs(), x).item()
