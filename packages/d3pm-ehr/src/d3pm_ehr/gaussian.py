"""Gaussian diffusion on the 0/1 table, the continuous rival: EDM as EHRDiff has it."""

import itertools
from typing import Self

import torch
from torch import Tensor, nn

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.one_hot import from_real, one_hot
from d3pm_ehr.training import mix


class _Net(nn.Module):
    """The mlp denoiser's trunk on real-valued rows: residual blocks with FiLM of a scalar."""

    def __init__(self, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.inward, self.output = nn.Linear(features, width), nn.Linear(width, features)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, 2 * width * depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, 6, 32, device=x.device))
        angles = level[:, None] * frequencies
        film = self.time(torch.cat([angles.sin(), angles.cos()], -1)).chunk(self.depth, -1)
        h = self.inward(x)
        for norm, layer, own in zip(self.norms, self.layers, film, strict=False):
            scale, shift = own.chunk(2, -1)
            h = h + layer(norm(h) * (1 + scale) + shift)
        return self.output(self.norms[-1](h))


class GaussianDiffusion:
    """EDM (Karras et al. 2022) on the 0/1 table, as EHRDiff has it: Heun's method, then rounding.

    Args:
        width: of the network, the same trunk as the mlp denoiser.
        depth: residual blocks.
        steps: of AdamW.
        batch_size: records in a step.
        learning_rate: at its peak.
        heun: steps of the sampler.
        sigma_data: standard deviation of the data; that of the training table by default.
        seed: of the weights and draws.
    """

    def __init__(
        self, width: int = 256, depth: int = 2, steps: int = 2000, batch_size: int = 256, learning_rate: float = 1e-3,
        heun: int = 32, sigma_data: float | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.width, self.depth, self.steps = width, depth, steps
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.heun, self.sigma_data, self.seed = heun, sigma_data, seed

    def fit(self, cohort: Cohort) -> Self:
        """Train the preconditioned denoiser by its weighted squared error."""
        self.vocabulary = cohort.vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = _Net(cohort.vocabulary.layout.logits, self.width, self.depth)
        sample = one_hot(cohort.vocabulary.layout, cohort.tokens(slice(0, 20_000)))
        self.sigma = self.sigma_data or float(sample.std())
        self.mean = sample.mean(0)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        average = {name: value.clone() for name, value in self.net.state_dict().items()}
        rows = cohort.tokens() if len(cohort) * cohort.vocabulary.layout.columns <= 2**28 else None
        for step in range(self.steps):
            g = torch.Generator().manual_seed(mix(self.seed, step))
            index = torch.randint(len(cohort), (self.batch_size,), generator=g)
            tokens = rows.index_select(0, index) if rows is not None else cohort.tokens(index.numpy())
            x = one_hot(cohort.vocabulary.layout, tokens)
            level = (torch.randn(self.batch_size, generator=g) * 1.2 - 1.2).exp()[:, None]
            noisy = x + level * torch.randn(x.shape, generator=g)
            weight = (level**2 + self.sigma**2) / (level * self.sigma) ** 2
            loss = (weight * (self._denoise(noisy, level) - x).square()).sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            decay = min(0.995, (1 + step) / (10 + step))
            with torch.no_grad():
                own = self.net.state_dict()
                torch._foreach_lerp_([average[name] for name in own], list(own.values()), 1 - decay)
        self.net.load_state_dict(average)
        return self

    def _denoise(self, x: Tensor, level: Tensor) -> Tensor:
        total = level**2 + self.sigma**2
        skip, out = self.sigma**2 / total, level * self.sigma / total.sqrt()
        return (
            self.mean + skip * (x - self.mean) + out * self.net((x - self.mean) / total.sqrt(), level[:, 0].log() / 4)
        )

    @torch.no_grad()
    def sample(self, n: int, seed: int) -> Cohort:
        """Draw n records by Heun's method from sigma 80 to 0.002, then round (categorical columns: the largest)."""
        g = torch.Generator().manual_seed(seed)
        ramp = torch.linspace(0, 1, self.heun)
        levels = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        levels = torch.cat([levels, torch.zeros(1)])
        parts = []
        for start in range(0, n, 1024):
            size = min(1024, n - start)
            x = levels[0] * torch.randn(size, self.vocabulary.layout.logits, generator=g)
            for now, then in itertools.pairwise(levels):
                slope = (x - self._denoise(x, now.expand(size, 1))) / now
                ahead = x + (then - now) * slope
                if then > 0:
                    again = (ahead - self._denoise(ahead, then.expand(size, 1))) / then
                    ahead = x + (then - now) * (slope + again) / 2
                x = ahead
            parts.append(from_real(self.vocabulary.layout, x))
        return Cohort.from_tokens(self.vocabulary, torch.cat(parts))
