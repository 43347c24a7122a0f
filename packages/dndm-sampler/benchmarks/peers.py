"""Peers behind one call: `sample(batch, steps, seed) -> (tokens, calls)` around the same exact denoiser."""

from collections.abc import Callable

import torch
from common import LENGTH, MASK, VOCAB, Denoiser, generator
from diffusers import AmusedScheduler
from diffusers.schedulers.scheduling_discrete_ddim import DiscreteDDIMScheduler
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import PolynomialConvexScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver
from flow_matching.utils import ModelWrapper

Sample = Callable[[int, int, int], tuple[torch.Tensor, int]]


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.denoiser(x, t)


@torch.no_grad()
def caching(denoiser: Denoiser) -> Sample:
    """The caching sampler of masked diffusion language models, from its description: T ancestral steps that keep the
    prediction while no token has changed, which a denoiser that takes no time allows."""

    def sample(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        model, draws = Counted(denoiser), generator(seed)
        x = torch.full((batch, LENGTH), MASK)
        kept: torch.Tensor | None = None
        for step in range(steps, 0, -1):
            if kept is None:
                kept = model(x, torch.full((batch,), step / steps)).exp()
                kept = kept / kept.sum(-1, keepdim=True)
            stay, now = (step - 1) / steps, step / steps
            law = torch.cat([kept * (now - stay), torch.full((*x.shape, 1), stay, dtype=kept.dtype)], dim=-1)
            drawn = torch.multinomial(law.flatten(0, 1), 1, generator=draws).view_as(x)
            after = torch.where(x == MASK, drawn, x)
            if not torch.equal(after, x):
                kept = None
            x = after
        return x, model.calls

    return sample


def euler(denoiser: Denoiser) -> Sample:
    """flow_matching's discrete Euler solver on the mask path kappa(t) = t, which is the linear schedule."""

    class Posterior(ModelWrapper):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: object) -> torch.Tensor:
            p = self.model(x, (1 - t).expand(len(x))).softmax(-1)
            return torch.cat([p, torch.zeros(*p.shape[:-1], 1, dtype=p.dtype)], dim=-1)

    def sample(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        torch.manual_seed(seed)  # the solver draws from the global generator
        model = Counted(denoiser)
        path = MixtureDiscreteProbPath(scheduler=PolynomialConvexScheduler(n=1.0))
        solver = MixtureDiscreteEulerSolver(model=Posterior(model), path=path, vocabulary_size=VOCAB + 1)  # type: ignore[arg-type]
        start = torch.full((batch, LENGTH), MASK)
        return solver.sample(x_init=start, step_size=1 / steps, time_grid=torch.tensor([0.0, 1.0])), model.calls

    return sample


def amused(denoiser: Denoiser, temperature: tuple[float, float]) -> Sample:
    """diffusers' AmusedScheduler; its choice of positions by score is random for a high temperature."""

    def sample(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        model, draws = Counted(denoiser), generator(seed)
        scheduler = AmusedScheduler(mask_token_id=MASK, masking_schedule="linear")
        scheduler.set_timesteps(steps, temperature=temperature)
        x = torch.full((batch, LENGTH), MASK)
        for t in scheduler.timesteps:
            logits = model(x, torch.ones(batch))
            x = scheduler.step(logits, t, x, generator=draws).prev_sample
        return x, model.calls

    return sample


def discrete_ddim(uniform_denoiser: Denoiser) -> Sample:
    """diffusers' DiscreteDDIMScheduler, which is for uniform noise and gets the exact denoiser of that noise."""

    def sample(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        model, draws = Counted(uniform_denoiser), generator(seed)
        scheduler = DiscreteDDIMScheduler()
        scheduler.set_timesteps(steps)
        x = torch.randint(VOCAB, (batch, LENGTH), generator=draws)
        for step in scheduler.timesteps:
            logits = model(x, torch.full((batch,), 1 - int(step) / steps))
            x = scheduler.step(logits, step, x, temperature=1.0, generator=draws).prev_sample
        return x, model.calls

    return sample
