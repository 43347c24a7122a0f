"""What a generator is compared with: independent Bernoulli, Gaussian diffusion (EDM), a MedGAN, and CTGAN."""

from typing import Literal, Protocol, Self, get_args

import torch
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort, empirical_laws
from d3pm_ehr.gan import CTGAN, MedGAN
from d3pm_ehr.gaussian import GaussianDiffusion

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
