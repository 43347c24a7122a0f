"""peft's LoRA layer as one autograd node: the same numbers with fewer kernels and no tensor in between kept.

On small batches an adapted projection spends more time in launching its parts (two products, a scaling, an addition,
and as many again in the backward pass) than in computing them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FusedLoraLinear(LoraLinear):
    """y = W x + b + s B A x. Whatever is less plain than that takes peft's own way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The adapted layer, or the base where the adapter is off."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        if name is None or args or kwargs or self.merged or not self._is_plain(name, x):
            return super().forward(x, *args, **kwargs)
        base: Any = self.base_layer
        if self.disable_adapters:
            return F.linear(x, base.weight, base.bias)
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        return _AdaptedProduct.apply(x, base.weight, base.bias, down, up, self.scaling[name])

    def _is_plain(self, name: str, x: Tensor) -> bool:
        base = self.base_layer
        if type(base) is not nn.Linear or base.weight.requires_grad or name not in self.lora_A:
            return False
        if name in self.lora_variant or not isinstance(self.lora_dropout[name], nn.Identity):
            return False
        one_type = x.dtype == base.weight.dtype == self.lora_A[name].weight.dtype
        return one_type and not torch.is_autocast_enabled(x.device.type)


def fuse_lora(net: nn.Module) -> None:
    """Let every LoRA layer on a Linear compute in this way; merging, saving and copying stay peft's."""
    for module in net.modules():
        if type(module) is LoraLinear:
            module.__class__ = FusedLoraLinear


class _AdaptedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch into"],
        weight: Float[Tensor, "out into"],
        bias: Tensor | None,
        down: Float[Tensor, "rank into"],
        up: Float[Tensor, "out rank"],
        scale: float,
    ) -> Float[Tensor, "*batch out"]:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ down.T
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale = scale
        return F.linear(rows, weight, bias).addmm_(low, up.T, alpha=scale).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, down, up = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        to_low = (flat @ up).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (flat @ weight).addmm_(to_low, down).view(*grad.shape[:-1], -1)
        return to_x, None, None, to_low.T @ rows, (flat.T @ low).mul_(ctx.scale), None
