"""Random numbers of what they are drawn for, not of when: noise is a function of seed, iteration, item and visit.

A resumed run, another number of processes or a reference pass made beforehand therefore meet the very same timesteps
and noise. They are drawn on the CPU, so that no device changes them.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Stream = Literal["train", "unshared", "opponent", "evaluation", "order", "adapter"]


class Draw(NamedTuple):
    """What each item of a batch is noised with.

    Attributes:
        steps: index of the timestep, uniform over all of them.
        noise: eps, standard normal.
        uniform: a number in [0, 1) for decisions (caption dropout).
    """

    steps: Int[Tensor, "batch"]
    noise: Float[Tensor, "batch *shape"]
    uniform: Float[Tensor, "batch"]


def counter_seed(stream: Stream, *counters: int) -> int:
    """A generator's seed that only these counters share."""
    packed = stream.encode() + struct.pack(f">{len(counters)}q", *counters)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


def draw(
    seed: int,
    iteration: int,
    items: Sequence[int],
    visits: Sequence[int],
    num_steps: int,
    shape: Sequence[int],
    stream: Stream = "train",
) -> Draw:
    """Timestep and noise of each (item, visit) of an iteration.

    Args:
        seed: of the run.
        iteration: k.
        items: number of each item in the data.
        visits: how often each was met before in this iteration.
        num_steps: T.
        shape: of one sample.
        stream: keeps draws for different purposes apart.
    """
    generator = torch.Generator()
    steps = torch.empty(len(items), dtype=torch.long)
    uniform = torch.empty(len(items))
    noise = torch.empty(len(items), *shape)
    for row, (item, visit) in enumerate(zip(items, visits, strict=True)):
        generator.manual_seed(counter_seed(stream, seed, iteration, item, visit))
        first = torch.rand(2, generator=generator, dtype=torch.float64)
        steps[row] = min(int(first[0] * num_steps), num_steps - 1)
        uniform[row] = first[1]
        torch.randn(tuple(shape), generator=generator, out=noise[row])
    return Draw(steps, noise, uniform)
