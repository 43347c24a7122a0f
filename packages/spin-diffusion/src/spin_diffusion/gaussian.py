"""The one-dimensional Gaussian family, where generated moments and the fixed point of self-play are closed forms.

The denoiser is the optimal one of N(mean, variance), so that every step of DDIM is linear in x and the law of what a
coarse sampler generates is again Gaussian. Supervised fine-tuning ends at the data's moments whatever the sampler;
self-play with the approximate loss (4.9) ends where the *generated* moments are the data's.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Moments(NamedTuple):
    """Mean and variance of a Gaussian."""

    mean: float
    variance: float


class GaussianDenoiser(nn.Module):
    """Noise prediction that is optimal for data N(mean, variance).

    eps(x, t) = sqrt(1 - alpha_t) (x - sqrt(alpha_t) mean) / (alpha_t variance + 1 - alpha_t).

    Args:
        start: moments at which the two parameters (mean, log variance) begin.
        alphas_cumprod: alpha_t of every training timestep.
    """

    alphas_cumprod: Tensor

    def __init__(self, start: Moments, alphas_cumprod: Float[Tensor, " timesteps"]) -> None:
        super().__init__()
        if start.variance <= 0:
            raise ValueError(f"variance must be positive, got {start.variance}")
        self.register_buffer("alphas_cumprod", alphas_cumprod.double())
        self.mean = nn.Parameter(torch.tensor(start.mean, dtype=torch.float64))
        self.log_variance = nn.Parameter(torch.tensor(math.log(start.variance), dtype=torch.float64))

    @property
    def moments(self) -> Moments:
        """The parameters as mean and variance."""
        return Moments(self.mean.item(), self.log_variance.exp().item())

    def forward(
        self, sample: Float[Tensor, "batch *dims"], timestep: Int[Tensor, " batch"], condition: Any = None
    ) -> Float[Tensor, "batch *dims"]:
        """The predicted noise; `condition` is ignored: there is one prompt."""
        alpha = self.alphas_cumprod[timestep].view(-1, *[1] * (sample.ndim - 1))
        scale = (1 - alpha).sqrt() / (alpha * self.log_variance.exp() + 1 - alpha)
        return scale * (sample - alpha.sqrt() * self.mean)


def linear_alphas(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Float[Tensor, " timesteps"]:
    """Cumulative products of 1 - beta for betas that grow linearly, in float64."""
    return (1 - torch.linspace(start, end, steps, dtype=torch.float64)).cumprod(0)


def spaced_timesteps(sampling_steps: int, steps: int = 1000) -> list[int]:
    """So many timesteps, evenly spaced from the noisiest one down: round(linspace(steps - 1, 0, n + 1))[:-1]."""
    # float64, and round half to even as numpy does
    points = torch.linspace(steps - 1, 0, sampling_steps + 1, dtype=torch.float64)
    return [int(t) for t in points.round()[:-1]]


def generated_moments(
    theta: Moments,
    alphas_cumprod: Float[Tensor, " timesteps"],
    timesteps: Sequence[int],
    eta: float = 0.0,
    last_variance: float = 0.0,
) -> Moments:
    """Moments of what N-step DDIM makes of N(0, 1) with the denoiser of N(theta): the linear recursion, exactly.

    A step takes x to a x + b + sigma z, so the mean becomes a mean + b and the variance a^2 variance + sigma^2.

    Args:
        theta: the denoiser's parameters.
        alphas_cumprod: alpha_t of every training timestep.
        timesteps: those that are visited, falling; after the last one alpha = 1.
        eta: 0 deterministic, 1 the posterior variance of DDPM.
        last_variance: floor of sigma^2 (the last step's is 0 at any eta).
    """
    mean, variance = 0.0, 1.0
    for alpha, alpha_next, sigma2 in ddim_steps(alphas_cumprod, timesteps, eta, last_variance):
        gain = math.sqrt(1 - alpha) / (alpha * theta.variance + 1 - alpha)
        stretch = math.sqrt(alpha_next / alpha)
        h = math.sqrt(max(1 - alpha_next - sigma2, 0.0)) - stretch * math.sqrt(1 - alpha)
        a = stretch + h * gain
        mean = a * mean - h * gain * math.sqrt(alpha) * theta.mean
        variance = a * a * variance + sigma2
    return Moments(mean, variance)


def ddim_steps(
    alphas_cumprod: Float[Tensor, " timesteps"], timesteps: Sequence[int], eta: float = 0.0, last_variance: float = 0.0
) -> list[tuple[float, float, float]]:
    """(alpha_t, alpha_next, sigma^2) of every step of DDIM, sigma^2 = eta^2 (1 - a')/(1 - a) (1 - a/a')."""
    alphas = [float(alphas_cumprod[t]) for t in timesteps]
    steps = []
    for alpha, alpha_next in zip(alphas, [*alphas[1:], 1.0], strict=True):
        sigma2 = eta**2 * (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
        steps.append((alpha, alpha_next, max(sigma2, last_variance)))
    return steps


def fixed_point(
    data: Moments, alphas_cumprod: Float[Tensor, " timesteps"], timesteps: Sequence[int], eta: float = 0.0
) -> Moments:
    """The denoiser whose generated moments are the data's (S7): a root in the variance, then a linear equation.

    Raises:
        ValueError: if no denoiser of the family reaches the data's variance with these steps.
    """
    from scipy.optimize import brentq

    def gap(log_variance: float) -> float:
        theta = Moments(0.0, math.exp(log_variance))
        return generated_moments(theta, alphas_cumprod, timesteps, eta).variance - data.variance

    low, high = -20.0, 20.0
    if gap(low) * gap(high) > 0:
        raise ValueError(f"no denoiser generates variance {data.variance} with {len(timesteps)} steps")
    variance = math.exp(brentq(gap, low, high, xtol=1e-15, rtol=1e-14))
    # generated mean is linear in the parameter, and zero at zero
    slope = generated_moments(Moments(1.0, variance), alphas_cumprod, timesteps, eta).mean
    return Moments(data.mean / slope, variance)


def wasserstein2(a: Moments, b: Moments) -> float:
    """2-Wasserstein distance of two Gaussians in one dimension."""
    return math.hypot(a.mean - b.mean, math.sqrt(a.variance) - math.sqrt(b.variance))


def expected_error(
    theta: GaussianDenoiser, law: Moments, weights: Float[Tensor, " timesteps"] | None = None
) -> Float[Tensor, ""]:
    """E (eps_theta(x_t, t) - eps)^2 over x_0 ~ N(law), eps ~ N(0, 1), t uniform: exact, and differentiable in theta.

    The gradient of (4.9) at the opponent is beta / 2 times that of the difference of this number between the data
    and what the opponent generates (S1).
    """
    alpha = theta.alphas_cumprod
    gain = (1 - alpha).sqrt() / (alpha * theta.log_variance.exp() + 1 - alpha)
    bias = gain * alpha.sqrt() * (law.mean - theta.mean)
    noise = (gain * (1 - alpha).sqrt() - 1) ** 2
    error = bias**2 + gain**2 * alpha * law.variance + noise
    return (error if weights is None else error * weights).mean()
