"""What a generator is compared with: independent Bernoulli, Gaussian diffusion (EDM), a MedGAN, and CTGAN."""

import itertools
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.generator import empirical_laws
from d3pm_ehr.layout import TokenLayout
from d3pm_ehr.training import mix

BaselineName = Literal["bernoulli", "gaussian", "medgan", "ctgan"]


class Baseline(Protocol):
    """Fit on a cohort, draw a cohort."""

    def fit(self, cohort: Cohort) -> Self:
        """Learn from the records."""
        ...

    def sample(self, n: int, seed: int) -> Cohort:
        """Draw n records."""
        ...


class Bernoulli:
    """Every column on its own, at its frequency."""

    def fit(self, cohort: Cohort) -> Self:
        """Count."""
        self.vocabulary, self.laws = cohort.vocabulary, empirical_laws(cohort, prior=0.0)
        return self

    def sample(self, n: int, seed: int) -> Cohort:
        """Draw n records."""
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for group, law in self.vocabulary.layout.parts(self.laws):
            u = torch.rand(n, group.columns, generator=generator, dtype=law.dtype)
            if group.levels == 2:
                parts.append((u < law).to(torch.uint8))
            else:
                parts.append((u[..., None] >= law.cumsum(-1)[..., :-1]).sum(-1).to(torch.uint8))
        return Cohort.from_tokens(self.vocabulary, torch.cat(parts, 1))


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
        batch: records in a step.
        lr: peak learning rate.
        heun: steps of the sampler.
        sigma_data: standard deviation of the data; that of the training table by default.
        seed: of the weights and draws.
    """

    def __init__(
        self, width: int = 256, depth: int = 2, steps: int = 2000, batch: int = 256, lr: float = 1e-3, heun: int = 32,
        sigma_data: float | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.width, self.depth, self.steps, self.batch, self.lr = width, depth, steps, batch, lr
        self.heun, self.sigma_data, self.seed = heun, sigma_data, seed

    def fit(self, cohort: Cohort) -> Self:
        """Train the preconditioned denoiser by its weighted squared error."""
        self.vocabulary = cohort.vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = _Net(_width(cohort.vocabulary.layout), self.width, self.depth)
        sample = one_hot(cohort.vocabulary.layout, cohort.tokens(slice(0, 20_000)))
        self.sigma = self.sigma_data or float(sample.std())
        self.mean = sample.mean(0)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        average = {name: value.clone() for name, value in self.net.state_dict().items()}
        rows = cohort.tokens() if len(cohort) * cohort.vocabulary.layout.columns <= 2**28 else None
        for step in range(self.steps):
            g = torch.Generator().manual_seed(mix(self.seed, step))
            index = torch.randint(len(cohort), (self.batch,), generator=g)
            tokens = rows[index] if rows is not None else cohort.tokens(index.numpy())
            x = one_hot(cohort.vocabulary.layout, tokens)
            level = (torch.randn(self.batch, generator=g) * 1.2 - 1.2).exp()[:, None]
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
            x = levels[0] * torch.randn(size, _width(self.vocabulary.layout), generator=g)
            for now, then in itertools.pairwise(levels):
                slope = (x - self._denoise(x, now.expand(size, 1))) / now
                ahead = x + (then - now) * slope
                if then > 0:
                    again = (ahead - self._denoise(ahead, then.expand(size, 1))) / then
                    ahead = x + (then - now) * (slope + again) / 2
                x = ahead
            parts.append(from_real(self.vocabulary.layout, x))
        return Cohort.from_tokens(self.vocabulary, torch.cat(parts))


class MedGAN:
    """Choi et al. 2017: an autoencoder, a generator in its latent space, a discriminator with minibatch averaging.

    Args:
        latent: width of the code.
        pretrain: steps of the autoencoder alone.
        steps: of the adversarial training.
        batch: records in a step.
        seed: of the weights and draws.
    """

    def __init__(
        self, latent: int = 128, pretrain: int = 500, steps: int = 1500, batch: int = 256, seed: int = 0
    ) -> None:
        self.latent, self.pretrain, self.steps, self.batch, self.seed = latent, pretrain, steps, batch, seed

    def fit(self, cohort: Cohort) -> Self:
        """Pretrain the autoencoder, then train adversarially."""
        self.vocabulary = cohort.vocabulary
        width = _width(cohort.vocabulary.layout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = nn.Sequential(nn.Linear(width, self.latent), nn.Tanh())
            self.decoder = nn.Linear(self.latent, width)
            self.generator = nn.ModuleList(
                nn.ModuleList([nn.Linear(self.latent, self.latent), nn.BatchNorm1d(self.latent)]) for _ in range(2)
            )
            critic = nn.Sequential(nn.Linear(2 * width, 256), nn.LeakyReLU(), nn.Linear(256, 128), nn.LeakyReLU(),
                                   nn.Linear(128, 1))  # fmt: skip
        rows = cohort.tokens()
        g = torch.Generator().manual_seed(self.seed)

        def batch() -> Tensor:
            index = torch.randint(len(cohort), (self.batch,), generator=g)
            return one_hot(cohort.vocabulary.layout, rows[index])

        both = torch.optim.Adam([*encoder.parameters(), *self.decoder.parameters()], lr=1e-3)
        for _ in range(self.pretrain):
            x = batch()
            loss = functional.binary_cross_entropy_with_logits(self.decoder(encoder(x)), x, reduction="sum") / len(x)
            both.zero_grad()
            loss.backward()
            both.step()
        making = torch.optim.Adam(
            [*self.generator.parameters(), *self.decoder.parameters()], lr=1e-3, weight_decay=1e-3
        )
        judging = torch.optim.Adam(critic.parameters(), lr=1e-3, weight_decay=1e-3)
        for _ in range(self.steps):
            x, z = batch(), torch.randn(self.batch, self.latent, generator=g)
            fake = torch.sigmoid(self._decode(z))
            truth, guess = critic(_with_average(x)), critic(_with_average(fake.detach()))
            loss = functional.softplus(-truth).mean() + functional.softplus(guess).mean()
            judging.zero_grad()
            loss.backward()
            judging.step()
            loss = functional.softplus(-critic(_with_average(fake))).mean()
            making.zero_grad()
            loss.backward()
            making.step()
        self.generator.eval()
        return self

    def _decode(self, z: Tensor) -> Tensor:
        pairs: Any = self.generator
        for index, (layer, norm) in enumerate(pairs):
            z = z + (torch.relu if index == 0 else torch.tanh)(norm(layer(z)))
        return self.decoder(z)

    @torch.no_grad()
    def sample(self, n: int, seed: int) -> Cohort:
        """Draw n records and round."""
        g = torch.Generator().manual_seed(seed)
        logits = torch.cat([self._decode(part) for part in torch.randn(n, self.latent, generator=g).split(4096)])
        return Cohort.from_tokens(self.vocabulary, from_real(self.vocabulary.layout, torch.sigmoid(logits)))


class CTGAN:
    """CTGAN of the `ctgan` package (the extra `d3pm-ehr[ctgan]`) on the table of codes and columns.

    Args:
        epochs: over the records (300 is its own default and costs hours at a thousand codes).
        batch: records in a step, a multiple of 10.
        seed: of everything it draws.
    """

    def __init__(self, epochs: int = 10, batch: int = 500, seed: int = 0) -> None:
        self.epochs, self.batch, self.seed = epochs, batch, seed

    def fit(self, cohort: Cohort) -> Self:
        """Train.

        Raises:
            InputError: if the extra is not installed.
        """
        try:
            import ctgan  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise InputError("baseline ctgan needs the extra: pip install 'd3pm-ehr[ctgan]'") from None
        import pandas as pd

        self.vocabulary = cohort.vocabulary
        frame = pd.DataFrame(cohort.tokens().numpy(), columns=list(cohort.vocabulary.names))
        self.peer = ctgan.CTGAN(epochs=self.epochs, batch_size=self.batch, cuda=False, verbose=False)
        self.peer.set_random_state(self.seed)
        self.peer.fit(frame, discrete_columns=list(frame.columns))
        return self

    def sample(self, n: int, seed: int) -> Cohort:
        """Draw n records."""
        self.peer.set_random_state(seed)
        values = self.peer.sample(n)[list(self.vocabulary.names)].to_numpy().astype(np.uint8)
        return Cohort.from_tokens(self.vocabulary, torch.from_numpy(values))


def make_baseline(name: BaselineName, steps: int = 2000, width: int = 256, depth: int = 2, seed: int = 0) -> Baseline:
    """A baseline with about the training of the diffusion it is set beside.

    Raises:
        InputError: for a name that does not exist.
    """
    if name == "bernoulli":
        return Bernoulli()
    if name == "gaussian":
        return GaussianDiffusion(width=width, depth=depth, steps=steps, seed=seed)
    if name == "medgan":
        return MedGAN(pretrain=max(1, steps // 4), steps=max(1, 3 * steps // 4), seed=seed)
    if name == "ctgan":
        return CTGAN(seed=seed)
    raise InputError(f"baseline must be one of {', '.join(get_args(BaselineName))}, got {name!r}")


def _width(layout: TokenLayout) -> int:
    return layout.logits


def one_hot(layout: TokenLayout, tokens: Tensor) -> Float[Tensor, "rows features"]:
    """Tokens as real rows: codes 0/1, columns of K > 2 levels one-hot."""
    parts = []
    for group in layout.groups:
        own = tokens[:, group.start : group.stop]
        parts.append(
            own.float() if group.levels == 2 else functional.one_hot(own.long(), group.levels).float().flatten(1)
        )
    return torch.cat(parts, 1)


def from_real(layout: TokenLayout, x: Float[Tensor, "rows features"]) -> Tensor:
    """Round codes at 1/2, take the largest level of the others."""
    parts = []
    for group, part in layout.parts(x):
        parts.append((part > 0.5).to(torch.uint8) if group.levels == 2 else part.argmax(-1).to(torch.uint8))
    return torch.cat(parts, 1)


def _with_average(x: Tensor) -> Tensor:
    return torch.cat([x, x.mean(0, keepdim=True).expand_as(x)], 1)
