"""The gated feed-forward layer with LoRA on its way down, keeping two wide activations for the backward pass, not four.

down(silu(gate) * up): silu(gate) and the product are computed again from gate and up, which is a pass over memory and
no matrix product, and a quarter of all that a Llama layer keeps.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spin_llm.fused_lora import FusedLoraLinear

# transformers' layers that are exactly this formula
FAMILIES = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP")


class GatedMLP(nn.Module):
    """Stands before one of `FAMILIES` in the order of methods."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's formula."""
        down: Any = self.down_proj
        adapter = down.plain_adapter(x) if isinstance(down, FusedLoraLinear) and _is_silu(self.act_fn) else None
        if adapter is None or not torch.is_grad_enabled():
            return super().forward(x)  # the family's own
        gate, up = (getattr(self, name)(x) for name in ("gate_proj", "up_proj"))
        return _GatedDown.apply(gate, up, *down.product(adapter))


def fuse_mlps(model: nn.Module) -> nn.Module:
    """Let every gated layer of a known family keep less."""
    for module in model.modules():
        if type(module).__name__ in FAMILIES and not isinstance(module, GatedMLP):
            module.__class__ = _fused(type(module))  # type: ignore[arg-type] # classes are hashable
    return model


@cache
def _fused(family: Any) -> type[nn.Module]:
    return type(family.__name__, (GatedMLP, family), {})


def _is_silu(activation: Any) -> bool:
    return type(activation).__name__ in ("SiLU", "SiLUActivation")


class _GatedDown(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate: Float[Tensor, "*batch wide"],
        up: Float[Tensor, "*batch wide"],
        weight: Float[Tensor, "out wide"],
        bias: Tensor | None,
        down: Float[Tensor, "rank wide"],
        high: Float[Tensor, "out rank"],
        scale: float,
    ) -> Float[Tensor, "*batch out"]:
        rows = nn.functional.silu(gate).mul_(up).flatten(0, -2)
        low = rows @ down.T
        out = nn.functional.linear(rows, weight, bias).addmm_(low, high.T, alpha=scale)
        ctx.save_for_backward(gate, up, weight, down, high, low)
        ctx.scale = scale
        return out.reshape(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight, down, high, low = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        pulled = (gradient @ high).mul_(ctx.scale)
        to_product = (gradient @ weight).addmm_(pulled, down).reshape(gate.shape)
        activation = nn.functional.silu(gate)
        to_gate = torch.ops.aten.silu_backward(to_product * up, gate)
        to_up = to_product.mul_(activation)
        to_down = pulled.T @ activation.mul_(up).flatten(0, -2)
        return to_gate, to_up, None, None, to_down, (gradient.T @ low).mul_(ctx.scale), None
