"""What the second forward pass must not disturb: running statistics of normalisation layers, random numbers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class NormStatistics:
    """Running statistics of every layer that keeps `running_mean` (batch and instance norm, SyncBatchNorm, your own).

    They are saved and copied back, rather than switched off: the second pass normalises with its own batch either way,
    `momentum=None` and instance norm come out right, and a compiled model is not recompiled.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if "running_mean" in module._buffers]
        self._saved: list[tuple[Tensor, Tensor]] = []

    def save(self) -> None:
        """Keep the statistics as they are now."""
        found = (layer._buffers.get(name) for layer in self._layers for name in STATISTICS)
        self._saved = [(buffer, buffer.clone()) for buffer in found if buffer is not None]

    def restore(self) -> None:
        """Copy them back."""
        with torch.no_grad():
            for buffer, value in self._saved:
                buffer.copy_(value)
        self._saved = []


@contextmanager
def freeze_norm_stats(model: nn.Module) -> Iterator[None]:
    """Run the second forward and backward pass inside: running statistics come out as they went in.

    `SAM(..., model=model)` does this by itself.
    """
    statistics = NormStatistics(model)
    statistics.save()
    try:
        yield
    finally:
        statistics.restore()


class RandomState:
    """The states of the default generators of the CPU and of some devices."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._others: list[tuple[torch.device, Any]] = []
        for device in devices:
            if device.type not in ("cpu", "meta"):
                module = torch.get_device_module(device)
                state = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
                self._others.append((device, state))

    def apply(self) -> None:
        """Set the generators to these states."""
        torch.set_rng_state(self._cpu)
        for device, state in self._others:
            module = torch.get_device_module(device)
            if device.type == "mps":
                module.set_rng_state(state)
            else:
                module.set_rng_state(state, device)
