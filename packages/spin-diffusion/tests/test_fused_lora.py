"""The fused LoRA layer is peft's, to rounding, in values and gradients."""

import copy

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from spin_diffusion.config import Lora
from spin_diffusion.fused_lora import FusedLoraLinear
from spin_diffusion.lora import add_lora
from spin_diffusion.references import adapters_off
from torch import nn


def _pair(bias: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = nn.ModuleDict({"to_q": nn.Linear(6, 5, bias=bias)}).double()
    add_lora(net, Lora(rank=2, alpha=3.0), 0)
    nn.init.normal_(net["to_q"].lora_B["default"].weight)
    plain = copy.deepcopy(net)
    assert type(net["to_q"]) is FusedLoraLinear
    plain["to_q"].__class__ = LoraLinear
    return net, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_values_and_gradients_are_pefts(bias: bool, shape: tuple[int, ...]) -> None:
    nets = _pair(bias)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for net in nets:
        given = x.clone().requires_grad_()
        out = net["to_q"](given)
        out.sin().sum().backward()
        weights = [weight.grad for weight in net.parameters() if weight.requires_grad]
        assert len(weights) == 2
        found.append([out.detach(), given.grad, *weights])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_switched_off_it_is_the_base_and_other_precisions_go_pefts_way() -> None:
    net, plain = _pair(bias=True)
    x = torch.randn(3, 6, dtype=torch.float64)
    with adapters_off(net):
        assert torch.equal(net["to_q"](x), net["to_q"].base_layer(x))
    net.float(), plain.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net["to_q"](x.float()), plain["to_q"](x.float()))
