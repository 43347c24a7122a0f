"""Adversarial rivals: a MedGAN, and CTGAN by its own package."""

from typing import Any, Self

import numpy as np
import torch
from shared_core.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.one_hot import from_real, one_hot


class MedGAN:
    """Choi et al. 2017: an autoencoder, a generator in its latent space, a discriminator with minibatch averaging.

    Args:
        latent: width of the code.
        pretrain: steps of the autoencoder alone.
        steps: of the adversarial training.
        batch_size: records in a step.
        seed: of the weights and draws.
    """

    def __init__(
        self, latent: int = 128, pretrain: int = 500, steps: int = 1500, batch_size: int = 256, seed: int = 0
    ) -> None:
        self.latent, self.pretrain, self.steps, self.batch_size, self.seed = latent, pretrain, steps, batch_size, seed

    def fit(self, cohort: Cohort) -> Self:
        """Pretrain the autoencoder, then train adversarially."""
        self.vocabulary = cohort.vocabulary
        width = cohort.vocabulary.layout.logits
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
            index = torch.randint(len(cohort), (self.batch_size,), generator=g)
            return one_hot(cohort.vocabulary.layout, rows.index_select(0, index))

        both = torch.optim.Adam([*encoder.parameters(), *self.decoder.parameters()], lr=1e-3, fused=True)
        for _ in range(self.pretrain):
            x = batch()
            loss = functional.binary_cross_entropy_with_logits(self.decoder(encoder(x)), x, reduction="sum") / len(x)
            both.zero_grad()
            loss.backward()
            both.step()
        making = torch.optim.Adam(
            [*self.generator.parameters(), *self.decoder.parameters()], lr=1e-3, weight_decay=1e-3, fused=True
        )
        judging = torch.optim.Adam(critic.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)
        for _ in range(self.steps):
            x, z = batch(), torch.randn(self.batch_size, self.latent, generator=g)
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
        batch_size: records in a step, a multiple of 10.
        seed: of everything it draws.
    """

    def __init__(self, epochs: int = 10, batch_size: int = 500, seed: int = 0) -> None:
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed

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
        self.peer = ctgan.CTGAN(epochs=self.epochs, batch_size=self.batch_size, enable_gpu=False, verbose=False)
        self.peer.set_random_state(self.seed)
        self.peer.fit(frame, discrete_columns=list(frame.columns))
        return self

    def sample(self, n: int, seed: int) -> Cohort:
        """Draw n records."""
        self.peer.set_random_state(seed)
        values = self.peer.sample(n)[list(self.vocabulary.names)].to_numpy().astype(np.uint8)
        return Cohort.from_tokens(self.vocabulary, torch.from_numpy(values))


def _with_average(x: Tensor) -> Tensor:
    return torch.cat([x, x.mean(0, keepdim=True).expand_as(x)], 1)
