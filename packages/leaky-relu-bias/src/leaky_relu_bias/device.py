"""Where a batch of runs is computed: a GPU pays only where a step has enough to do."""

import logging

import torch
from shared_core.device import resolve_device
from shared_core.errors import InputError

from leaky_relu_bias.orthogonality import TrainingSet

log = logging.getLogger(__name__)
# Multiplications of one step beyond which some ten kernel launches cost less than the compiled CPU loop (estimated).
WORTH_A_GPU = 2_000_000


def device_for(name: str, data: TrainingSet, m: int, runs: int) -> torch.device:
    """Resolve `auto|cpu|cuda|cuda:N`: `auto` is the GPU where there is one and the batch is large, else the CPU.

    Raises:
        InputError: for a device that is not there, or one without float64 (mps).
    """
    if name == "auto":
        work = runs * 2 * m * data.n * min(data.n, 2 * data.d)
        best = resolve_device("auto")
        return best if best.type == "cuda" and work >= WORTH_A_GPU else torch.device("cpu")
    device = resolve_device(name)
    if device.type == "mps":
        raise InputError("device mps has no float64, without which the asymptotics stall; use cpu or cuda")
    return device


def moved(data: TrainingSet, device: torch.device, dtype: torch.dtype = torch.float64) -> TrainingSet:
    """The same points elsewhere."""
    return TrainingSet(data.X.to(device, dtype), data.y.to(device, dtype))
