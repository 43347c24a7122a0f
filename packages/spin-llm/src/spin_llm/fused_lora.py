"""peft's LoRA layers with one gradient of their own: the same numbers, without the passes over memory in between."""

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class FusedLoraLinear(LoraLinear):
    """y = x W^T + b + s (x A^T) B^T, the update added in place; what is not that plain goes peft's way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The adapted layer."""
        name = self.plain_adapter(x, args, kwargs)
        if name is None:
            return super().forward(x, *args, **kwargs)
        return _LoraProduct.apply(x, *self.product(name))

    def product(self, name: str) -> tuple[Tensor, Tensor | None, Tensor, Tensor, float]:
        """W, b, A, B and s of an adapter."""
        base: Any = self.base_layer
        return base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]  # type: ignore[return-value] # module attributes

    def plain_adapter(self, x: Tensor, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> str | None:
        """The one active adapter, where nothing but the plain formula is asked for."""
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name, base = self.active_adapters[0], self.base_layer
        if name not in self.lora_A or name in self.lora_variant or type(base) is not nn.Linear:
            return None
        down, up, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        if type(down) is not nn.Linear or down.bias is not None or up.bias is not None or base.weight.requires_grad:
            return None
        drops = self.training and getattr(dropout, "p", 0.0) > 0
        same = x.dtype == base.weight.dtype == down.weight.dtype == up.weight.dtype
        return name if same and not drops and not torch.is_autocast_enabled(x.device.type) else None


def fuse_lora(model: nn.Module) -> nn.Module:
    """Let every plain LoRA layer of a model compute in the fused way; saving, merging and copying stay peft's."""
    for module in model.modules():
        if type(module) is LoraLinear:
            module.__class__ = FusedLoraLinear
    return model


class _LoraProduct(torch.autograd.Function):
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
        out = nn.functional.linear(rows, weight, bias).addmm_(low, up.T, alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.scale = scale
        return out.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None, None]:
        rows, weight, down, up, low = ctx.saved_tensors
        shape, gradient = gradients[0].shape, gradients[0].reshape(-1, gradients[0].shape[-1])
        pulled = (gradient @ up).mul_(ctx.scale)
        to_x = to_down = to_up = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight).addmm_(pulled, down).reshape(*shape[:-1], -1)
        if ctx.needs_input_grad[3]:
            to_down = pulled.T @ rows
        if ctx.needs_input_grad[4]:
            to_up = (gradient.T @ low).mul_(ctx.scale)
        return to_x, None, None, to_down, to_up, None
