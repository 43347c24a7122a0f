"""Noise schedules: abar_t, the probability that a token has not been resampled up to step t."""

import math
from typing import get_args

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from d3pm_ehr.config import ScheduleName


def noise_schedule(name: ScheduleName, steps: int) -> Float[Tensor, "steps_plus_1"]:
    """abar_0 = 1 down to abar_T = 0 in float64, with u = t / T and s = 0.008.

    - `cosine`: f(u) / f(0), f(u) = cos((u + s) / (1 + s) * pi / 2) (multinomial diffusion and D3PM);
    - `cosine_squared`: its square (the Gaussian schedule; DNDM's default of the name "cosine");
    - `linear`: 1 - u (the natural one for the absorbing kernel).

    Raises:
        InputError: for another name, or steps < 1.
    """
    if steps < 1:
        raise InputError(f"num_steps must be at least 1, got {steps}")
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    if name == "linear":
        abar = 1 - u
    elif name in ("cosine", "cosine_squared"):
        f = torch.cos((u + 0.008) / 1.008 * (math.pi / 2))
        abar = f / f[0]
        if name == "cosine_squared":
            abar = abar.square()
    else:
        raise InputError(f"schedule must be one of {', '.join(get_args(ScheduleName))}, got {name!r}")
    abar[0], abar[-1] = 1.0, 0.0  # cos(pi / 2) is 6e-17: x_T must be pure noise, or L_T is not 0
    return abar


def check_schedule(abar: Float[Tensor, "steps_plus_1"]) -> None:
    """Refuse a table that does not fall from 1 to (nearly) 0.

    Raises:
        InputError: if it has fewer than two entries, increases, or does not run from 1 to below 1e-6.
    """
    if abar.ndim != 1 or len(abar) < 2:
        raise InputError(f"abar must be a vector with T + 1 >= 2 entries, got shape {tuple(abar.shape)}")
    if abar[0] != 1 or not 0 <= float(abar[-1]) <= 1e-6 or bool((abar.diff() >= 0).any()):
        raise InputError(f"abar must fall strictly from 1 to 0, got {float(abar[0]):g} .. {float(abar[-1]):g}")


def subsequence(steps: int, count: int) -> list[int]:
    """`count` times spread evenly over T = steps .. 1, from T down to 0 (so `count` reverse steps).

    Raises:
        InputError: unless 1 <= count <= steps.
    """
    if not 1 <= count <= steps:
        raise InputError(f"num_steps must be in 1..{steps} (the num_steps of the model), got {count}")
    return [round(steps * (count - index) / count) for index in range(count + 1)]
