"""Training on the exact objective (paper: eq. 4.8): the opponent's whole trajectories, two passes an update.

The approximate objective meets each visit at one timestep; this one meets it at every step of the chain, in the memory
of one.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor, nn

from spin_diffusion.batches import Batch, Source
from spin_diffusion.config import Optimization, Sampler
from spin_diffusion.denoiser import Denoiser, placed, stacked
from spin_diffusion.losses import Link
from spin_diffusion.noise import draw
from spin_diffusion.optimization import Accumulate, Means, micro_batches
from spin_diffusion.sampling import make_scheduler
from spin_diffusion.schedules import NoiseSchedule, Schedule
from spin_diffusion.training_set import Rows, TrainingSet
from spin_diffusion.trajectory import ReverseChain, link_and_slope


def chain_of(schedule: Schedule, scheduler: Any, settings: Sampler) -> ReverseChain:
    """The chain of DDIM's timesteps for so many steps.

    Raises:
        InputError: for flow matching, whose sampler has no noise.
    """
    if not isinstance(schedule, NoiseSchedule):
        raise InputError("objective trajectory needs a schedule of the DDPM family, not flow matching")
    stepper = make_scheduler(scheduler, "ddim")
    stepper.set_timesteps(settings.num_inference_steps)
    return ReverseChain(schedule, stepper.timesteps.tolist(), settings.eta)


def trajectory_drawer(
    net: nn.Module, chain: ReverseChain, data: TrainingSet, autocast: Callable[[], Any]
) -> Callable[[Sequence[int], Sequence[int]], Tensor]:
    """Ancestral samples with all their states, [item, step + 1, ...], for `generate_opponents`."""
    denoiser = Denoiser(net)

    @torch.no_grad()
    def drawn(items: Sequence[int], seeds: Sequence[int]) -> Tensor:
        device = next(net.parameters()).device
        condition = placed(data.condition(items), device)
        shape = (len(chain) + 1, *data.shape)
        noises = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

        def predict(x: Tensor, step: int) -> Tensor:
            with autocast():
                return denoiser(x, _times(chain, step, len(x), device), condition).to(x.dtype)

        return chain.sample(predict, noises.transpose(0, 1).to(device)).transpose(0, 1)

    return drawn


class TrajectorySource(Source):
    """Batches of whole trajectories, one part for each step of the chain.

    Args:
        data: the real samples.
        chain: the reverse process.
        trajectories: of the opponent, row `item * samples_per_prompt + number`, [step + 1, ...] each.
        seed: of the run.
        iteration: k.
        samples_per_prompt: opponents of each item, met in turn.

    Raises:
        InputError: if the trajectories are of other items or another chain.
    """

    def __init__(
        self,
        data: TrainingSet,
        chain: ReverseChain,
        trajectories: Rows,
        seed: int,
        iteration: int = 0,
        *,
        samples_per_prompt: int = 1,
    ) -> None:
        ones = torch.ones(chain.schedule.num_steps)
        super().__init__(data, chain.schedule, ones, seed, iteration, samples_per_prompt=samples_per_prompt)
        if trajectories.row_shape != (len(chain) + 1, *data.shape):
            raise InputError(f"the opponent's trajectories are {trajectories.row_shape}: not of this chain and data")
        if len(trajectories) != len(data) * samples_per_prompt:
            raise InputError(
                f"{len(data)} items need {len(data) * samples_per_prompt} trajectories, got {len(trajectories)}"
            )
        self.chain, self.trajectories, self.members = chain, trajectories, 2
        self.num_parts = len(chain)

    def parts(self, positions: Sequence[int], device: torch.device) -> list[Batch]:
        """Every transition of the real and of the opponent's trajectories at these positions."""
        items, visits = self.visits(positions)
        shape = (len(self.chain) + 1, *self.data.shape)
        noises = draw(self.seed, self.iteration, items, visits, self.schedule.num_steps, shape).noise.transpose(0, 1)
        real = self.chain.posterior(self.data.latents.take(items).float(), noises)
        synthetic = self.trajectories.take(self.opponent_rows(items, visits)).float().transpose(0, 1)
        states = torch.cat([real, synthetic], dim=1).to(device)
        condition = self.data.condition(items)
        condition = placed(stacked([condition, condition]), device)
        return [
            Batch(
                states[step],
                _times(self.chain, step, states.shape[1], device),
                condition,
                self.chain.target(states[step], states[step + 1], step),
                torch.ones(len(items), device=device),
                list(positions),
                step,
            )
            for step in range(len(self.chain))
        ]


def trajectories(
    source: TrajectorySource,
    lam: float,
    link: Link,
    settings: Optimization,
    accelerator: Any,
    reference: Callable[[Batch], Tensor],
) -> Accumulate:
    """Updates of eq. (4.8): z of each pair without gradient, then each transition with l'(z) as its fixed weight."""
    elements = int(torch.Size(source.data.shape).numel())
    scales = (source.chain.term_weights * elements).tolist()

    def accumulate(scorer: nn.Module, number: int) -> dict[str, float]:
        means = Means(accelerator, settings.train_batch_size)
        micro = list(micro_batches(number, settings, accelerator))
        for index, (positions, counted) in enumerate(micro):
            batches = source.parts(positions, accelerator.device)
            weights = torch.tensor(counted, device=accelerator.device)
            with torch.no_grad():
                ours = torch.stack([_errors(scorer, batch) for batch in batches])
                theirs = torch.stack([reference(batch) for batch in batches])
                scaled = torch.tensor(scales, device=ours.device).view(-1, 1) * (
                    (ours - theirs)[:, 0] - (ours - theirs)[:, 1]
                )
                z = -lam * scaled.sum(0)
            losses, slopes = link_and_slope(z, link)
            for step, batch in enumerate(batches):
                last = index + 1 == len(micro) and step + 1 == len(batches)
                with nullcontext() if last else accelerator.no_sync(scorer):
                    real, synthetic = _errors(scorer, batch)
                    term = slopes * -lam * scales[step] * (real - synthetic)
                    accelerator.backward((term * weights).sum() * means.gradient_scale)
            means.add(_values(z, ours, theirs) | {"loss": losses}, weights)
        return means.get()

    return accumulate


def _errors(scorer: nn.Module, batch: Batch) -> Float[Tensor, "member item"]:
    return scorer(batch.noised, batch.time, batch.condition, batch.target).view(-1, len(batch.positions))


def _values(z: Tensor, ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    difference, known = (ours - theirs).mean(0), theirs.mean(0)
    return {
        "z": z,
        "implicit_accuracy": (z > 0).float() + 0.5 * (z == 0).float(),
        "d_real": difference[0],
        "d_fake": difference[1],
        "ref_real": known[0],
        "ref_fake": known[1],
    }


def _times(chain: ReverseChain, step: int, count: int, device: torch.device) -> Tensor:
    return chain.schedule.model_time(chain.timesteps[step].expand(count).to(device))
