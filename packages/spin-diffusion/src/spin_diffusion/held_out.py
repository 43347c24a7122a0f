"""The plain denoising error on samples that are not trained on: what the pair loss cannot show."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from spin_diffusion.batches import Batch
from spin_diffusion.denoiser import DenoisingErrors, placed, stacked
from spin_diffusion.noise import draw
from spin_diffusion.schedules import Schedule
from spin_diffusion.training_set import Rows, TrainingSet

DRAWS = 8  # timesteps and noises of each item, the same in every evaluation


@torch.no_grad()
def denoising_errors(
    net: nn.Module,
    schedule: Schedule,
    data: TrainingSet,
    *,
    samples: Rows | None = None,
    seed: int = 0,
    batch_size: int = 16,
    autocast: Callable[[], Any] = nullcontext,
) -> torch.Tensor:
    """Mean squared error of each item and draw, [item, draw], at timesteps and noise that depend on the seed only.

    Args:
        net: in evaluation mode.
        schedule: how samples are noised.
        data: held-out items.
        samples: noised in place of the data's own, row for row (the opponent's).
        seed: of the draws.
        batch_size: samples a forward pass.
        autocast: makes the context of mixed precision.
    """
    device = next(net.parameters()).device
    scorer = DenoisingErrors(net)
    rows = [(item, visit) for item in range(len(data)) for visit in range(DRAWS)]
    found = []
    for start in range(0, len(rows), batch_size):
        items, visits = map(list, zip(*rows[start : start + batch_size], strict=True))
        batch = _batch(schedule, data, samples or data.latents, items, visits, seed, device)
        with autocast():
            found.append(scorer(batch.noised, batch.time, batch.condition, batch.target).cpu())
    return torch.cat(found).view(len(data), DRAWS)


def implicit_accuracy(
    real: torch.Tensor, fake: torch.Tensor, real_before: torch.Tensor, fake_before: torch.Tensor
) -> float:
    """Share of held-out (item, draw) where the player tells the real sample from its opponent's; near 1/2 it cannot.

    Arguments are `denoising_errors` of the player and of its opponent.
    """
    z = (fake - fake_before) - (real - real_before)
    return float(((z > 0).double() + 0.5 * (z == 0).double()).mean())


def _batch(
    schedule: Schedule,
    data: TrainingSet,
    samples: Rows,
    items: list[int],
    visits: list[int],
    seed: int,
    device: torch.device,
) -> Batch:
    drawn = draw(seed, 0, items, visits, schedule.num_steps, data.shape, stream="evaluation")
    clean, noise, steps = samples.take(items).float().to(device), drawn.noise.to(device), drawn.steps.to(device)
    return Batch(
        schedule.add_noise(clean, noise, steps),
        schedule.model_time(steps),
        placed(stacked([data.condition(items)]), device),
        schedule.target(clean, noise, steps),
        torch.ones(len(items)),
        items,
    )
