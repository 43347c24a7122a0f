"""The paper's data: a signal patch and noise patches, labels flipped with probability p."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor


@dataclass(frozen=True)
class PatchData:
    """Distribution of (x, y): yhat uniform on +-1, y = -yhat with probability p; one patch is yhat mu, the rest noise.

    Noise xi ~ N(0, sigma_p^2 I_d): the same vector in all P - 1 patches (`shared`), or one each (`independent`).
    The law of everything measured depends on mu through its length only, so mu = |mu| e_1.

    Args:
        d: dimension of a patch.
        mu: |mu|, length of the signal.
        n: training samples.
        P: patches.
        sigma_p: standard deviation of the noise.
        p: probability that a label is flipped.
        noise_patches: shared or independent.

    Raises:
        InputError: for values out of range; the message names them.
    """

    d: int = 1000
    mu: float = 4.0
    n: int = 20
    P: int = 2
    sigma_p: float = 1.0
    p: float = 0.0
    noise_patches: Literal["shared", "independent"] = "shared"

    def __post_init__(self) -> None:
        for name, smallest in (("d", 1), ("n", 1), ("P", 2)):
            value = getattr(self, name)
            if value != int(value) or value < smallest:
                raise InputError(f"{name} must be an integer >= {smallest}, got {value}")
        if not (math.isfinite(self.mu) and self.mu >= 0):
            raise InputError(f"mu must be a finite length >= 0, got {self.mu}")
        if not (math.isfinite(self.sigma_p) and self.sigma_p > 0):
            raise InputError(f"sigma_p must be finite and > 0, got {self.sigma_p}")
        if not 0 <= self.p < 0.5:
            raise InputError(f"label_noise (p, the probability of a flipped label) must be in [0, 0.5), got {self.p}")
        if self.noise_patches not in ("shared", "independent"):
            raise InputError(f"noise_patches must be shared or independent, got {self.noise_patches!r}")

    @property
    def noises(self) -> int:
        """Distinct noise vectors in a sample."""
        return 1 if self.noise_patches == "shared" else self.P - 1

    @property
    def copies(self) -> int:
        """Patches that hold each of them."""
        return self.P - 1 if self.noise_patches == "shared" else 1

    def noisy(self, clean_error: Tensor) -> Tensor:
        """Error against observed labels from that against clean ones: p + (1 - 2p) err, ties apart."""
        return self.p + (1 - 2 * self.p) * clean_error

    def signal_noise_ratio(self) -> float:
        """n |mu|^4 / (P^4 sigma_p^4 d), which decides between benign and harmful overfitting for SGD."""
        return self.n * self.mu**4 / (self.P**4 * self.sigma_p**4 * self.d)


@dataclass(frozen=True)
class PatchSample:
    """Samples of `PatchData` in R^d.

    Attributes:
        mu: the signal.
        xi: noise vectors, one or P - 1 a sample.
        clean: yhat, +-1.
        y: observed labels, +-1.
    """

    mu: Float[Tensor, "d"]
    xi: Float[Tensor, "n q d"]
    clean: Float[Tensor, "n"]
    y: Float[Tensor, "n"]

    def patches(self, P: int, generator: torch.Generator) -> Float[Tensor, "n P d"]:
        """The inputs x, the signal at a uniformly random position."""
        n, q, d = self.xi.shape
        noise = self.xi.expand(n, P - 1, d) if q == 1 else self.xi
        signal = (self.clean[:, None] * self.mu)[:, None]
        order = torch.argsort(torch.rand(n, P, generator=generator, device=self.mu.device), dim=1)
        return torch.cat([signal, noise], 1).gather(1, order[..., None].expand(n, P, d))


def draw_patches(
    data: PatchData, generator: torch.Generator, n: int | None = None, dtype: torch.dtype = torch.float64
) -> PatchSample:
    """Draw `n` samples (by default data.n) in R^d."""
    count, device = n or data.n, generator.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    clean = torch.where(draw(count) < 0.5, -1.0, 1.0).to(dtype)
    y = torch.where(draw(count) < data.p, -clean, clean)
    xi = torch.randn(count, data.noises, data.d, generator=generator, device=device, dtype=dtype) * data.sigma_p
    mu = torch.zeros(data.d, dtype=dtype, device=device)
    mu[0] = data.mu
    return PatchSample(mu, xi, clean, y)
