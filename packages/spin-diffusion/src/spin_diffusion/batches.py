"""Which items an update meets, and what the network is asked about them: functions of seed, iteration and position.

Position p of an iteration is the p-th member of all its batches laid end to end; it fixes the item, how often that was
met before, the timestep, the noise and whether the prompt is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from spin_diffusion.denoiser import Condition, placed, stacked
from spin_diffusion.noise import counter_seed, draw
from spin_diffusion.schedules import Schedule
from spin_diffusion.training_set import Rows, TrainingSet


@dataclass
class Batch:
    """Members of each item one after the other: all real samples, then all of the opponent (or the losers).

    Args:
        noised: x_t, [members * item, ...].
        time: what the network is told.
        condition: of each.
        target: what it is to predict.
        weights: of each item's timestep.
        positions: of the items.
        part: which of the parts that an item is asked in.
    """

    noised: Tensor
    time: Tensor
    condition: Condition
    target: Tensor
    weights: Float[Tensor, "item"]
    positions: list[int]
    part: int = 0


class Source:
    """Batches of one iteration.

    Args:
        data: the real samples.
        schedule: how they are noised.
        weights: of each step (`step_weights`).
        seed: of the run.
        iteration: k.
        opponents: for pairs: samples of the opponent, row `item * samples_per_prompt + number`.
        samples_per_prompt: opponents of each item, met in turn.
        share_noise: both members of a pair meet the same timestep and noise.
        caption_dropout: share of visits without a prompt.
        channels_last: memory layout of images.

    Raises:
        InputError: if the numbers of opponents and items do not match.
    """

    def __init__(
        self,
        data: TrainingSet,
        schedule: Schedule,
        weights: Float[Tensor, "steps"],
        seed: int,
        iteration: int = 0,
        *,
        opponents: Rows | None = None,
        samples_per_prompt: int = 1,
        share_noise: bool = True,
        caption_dropout: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        if opponents is not None and len(opponents) != len(data) * samples_per_prompt:
            raise InputError(
                f"{len(data)} items need {len(data) * samples_per_prompt} samples of the opponent, got {len(opponents)}"
            )
        if opponents is not None and opponents.row_shape != data.shape:
            raise InputError(f"the opponent's samples are {opponents.row_shape}, the data {data.shape}")
        if caption_dropout and data.null is None and data.conditions:
            raise InputError("caption_dropout needs the condition without a prompt")
        self.data, self.schedule, self.weights = data, schedule, weights.float()
        self.seed, self.iteration, self.opponents = seed, iteration, opponents
        self.samples_per_prompt, self.share_noise = samples_per_prompt, share_noise
        self.caption_dropout, self.channels_last = caption_dropout, channels_last
        self.members = 1 if opponents is None else 2
        self.num_parts = 1
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def visits(self, positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """Item and number of the visit: every pass over the data is a permutation of its own."""
        items, visits = [], []
        for position in positions:
            visit, place = divmod(position, len(self.data))
            items.append(self._order(visit)[place])
            visits.append(visit)
        return items, visits

    def opponent_rows(self, items: Sequence[int], visits: Sequence[int]) -> list[int]:
        """Rows of the opponent's samples that these visits meet."""
        many = self.samples_per_prompt
        return [item * many + visit % many for item, visit in zip(items, visits, strict=True)]

    def parts(self, positions: Sequence[int], device: torch.device) -> list[Batch]:
        """All that the network is asked at these positions."""
        return [self.batch(positions, device)]

    def batch(self, positions: Sequence[int], device: torch.device) -> Batch:
        """What the network is asked at these positions."""
        items, visits = self.visits(positions)
        where = (self.seed, self.iteration, items, visits, self.schedule.num_steps, self.data.shape)
        drawn = draw(*where)
        steps, noise = drawn.steps, drawn.noise
        clean = self.data.latents.take(items).float()
        condition = self._condition(items, drawn.uniform)
        weights = self.weights[steps]
        if self.opponents is not None:
            clean = torch.cat([clean, self.opponents.take(self.opponent_rows(items, visits)).float()])
            condition = stacked([condition, condition])
            other = drawn if self.share_noise else draw(*where, stream="unshared")
            steps, noise = torch.cat([steps, other.steps]), torch.cat([noise, other.noise])
        clean, noise, steps = clean.to(device), noise.to(device), steps.to(device)
        noised = self.schedule.add_noise(clean, noise, steps)
        if self.channels_last and noised.ndim == 4:
            noised = noised.contiguous(memory_format=torch.channels_last)
        return Batch(
            noised,
            self.schedule.model_time(steps),
            placed(condition, device),
            self.schedule.target(clean, noise, steps),
            weights.to(device),
            list(positions),
        )

    def _condition(self, items: Sequence[int], uniform: Tensor) -> Condition:
        condition = self.data.condition(items)
        if not self.caption_dropout or self.data.null is None:
            return condition
        dropped = uniform < self.caption_dropout
        return {
            name: torch.where(dropped.view(-1, *[1] * (value.ndim - 1)), self.data.null[name].to(value.dtype), value)
            for name, value in condition.items()
        }

    def _shuffled(self, visit: int) -> list[int]:
        generator = torch.Generator().manual_seed(counter_seed("order", self.seed, self.iteration, visit))
        return torch.randperm(len(self.data), generator=generator).tolist()
