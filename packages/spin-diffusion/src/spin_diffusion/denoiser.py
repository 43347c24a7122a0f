"""Any network that denoises, called one way: with noised samples, times, and named conditions."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spin_diffusion.losses import denoising_error

Condition = dict[str, Tensor]
ADDED = ("text_embeds", "time_ids", "image_embeds")  # what SDXL's UNet wants inside `added_cond_kwargs`


class Denoiser(nn.Module):
    """`net(sample, timestep, **condition)` for UNets of diffusers, its transformers, and any module of that form.

    Example:
        >>> Denoiser(UNet2DModel(...))(noised, times, {"class_labels": labels})

    Args:
        net: returns the prediction, a tuple that begins with it, or an output object with `sample`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._by_name = "hidden_states" in inspect.signature(net.forward).parameters

    def forward(self, sample: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The prediction, shaped as the sample."""
        given: dict[str, Any] = {name: value for name, value in condition.items() if name not in ADDED}
        added = {name: value for name, value in condition.items() if name in ADDED}
        if added:
            given["added_cond_kwargs"] = added
        if self._by_name:
            found = self.net(hidden_states=sample, timestep=time, **given)
        else:
            found = self.net(sample, time, **given)
        if isinstance(found, Tensor):
            return found
        return found[0] if isinstance(found, tuple) else found.sample


class DenoisingErrors(nn.Module):
    """The module that accelerate wraps: everything differentiable happens inside its forward pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.denoiser = Denoiser(net)

    def forward(
        self, noised: Tensor, time: Tensor, condition: Mapping[str, Tensor], target: Tensor
    ) -> Float[Tensor, "batch"]:
        """Mean squared error of each sample."""
        return denoising_error(self.denoiser(noised, time, condition), target)


def stacked(conditions: Sequence[Mapping[str, Tensor]]) -> Condition:
    """Conditions one after the other along the batch."""
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def repeated(condition: Mapping[str, Tensor], count: int) -> Condition:
    """One row for each of so many samples."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}


def placed(condition: Mapping[str, Tensor], device: torch.device) -> Condition:
    """On a device; half precision (of a cache) becomes float32, as the network's own inputs are."""
    return {
        name: value.to(device, torch.float32 if value.is_floating_point() and value.itemsize < 4 else value.dtype)
        for name, value in condition.items()
    }


def disable_dropout(net: nn.Module) -> None:
    """Policy and reference must be the same function: dropout is off in both."""
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout):
            module.p = 0.0
