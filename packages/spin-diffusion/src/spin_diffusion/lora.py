"""LoRA through peft: a fresh adapter each iteration, merged into the weights when the iteration is over.

With the adapter merged, the network with the next adapter switched off is theta_k and not theta_0. What is given to
users is one adapter on theta_0 that sums all iterations: low-rank updates add by laying their factors side by side.
"""

from collections.abc import Mapping
from typing import Any

import torch
from shared_core.errors import InputError
from torch import Tensor, nn

from spin_diffusion.config import Lora

NAME = "default"


def add_lora(net: nn.Module, lora: Lora, seed: int) -> None:
    """Freeze the network and add an adapter whose update is exactly 0.

    Raises:
        InputError: if no layer has a name that `targets` gives.
    """
    from peft import LoraConfig, inject_adapter_in_model

    net.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type] # any number is taken
            target_modules=list(lora.targets),
            init_lora_weights=True,
            lora_dropout=0.0,
        )
        try:
            inject_adapter_in_model(config, net, NAME)
        except ValueError as error:
            raise InputError(f"lora targets {', '.join(lora.targets)}: {str(error).splitlines()[0]}") from None
    for name, weight in net.named_parameters():
        weight.requires_grad_("lora_" in name)


def check_targets(net: nn.Module, lora: Lora) -> None:
    """Refuse targets that name no layer, before any work is done.

    Raises:
        InputError: naming them.
    """
    names = [name for name, _ in net.named_modules()]
    if lora.rank and not any(name == end or name.endswith(f".{end}") for name in names for end in lora.targets):
        raise InputError(f"lora targets {', '.join(lora.targets)} name no layer of {type(net).__name__}")


def lora_layers(net: nn.Module) -> dict[str, Any]:
    """Adapted layers by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in net.named_modules() if isinstance(module, BaseTunerLayer)}


def lora_state(net: nn.Module) -> dict[str, Tensor]:
    """The adapter's factors, `LAYER.lora_A.weight` and `LAYER.lora_B.weight`, the scale within B."""
    found: dict[str, Tensor] = {}
    for name, layer in lora_layers(net).items():
        scale = layer.scaling[NAME]
        found[f"{name}.lora_A.weight"] = layer.lora_A[NAME].weight.detach().clone()
        found[f"{name}.lora_B.weight"] = scale * layer.lora_B[NAME].weight.detach()
    return {name: value.cpu().contiguous() for name, value in found.items()}


def load_lora_state(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put factors as `lora_state` gives them into the network's adapter.

    Raises:
        InputError: if they belong to another network.
    """
    layers = lora_layers(net)
    wanted = {f"{name}.lora_{part}.weight" for name in layers for part in "AB"}
    if wanted != set(state):
        raise InputError(f"the adapter is of another network: {sorted(wanted ^ set(state))[0]} is in one only")
    with torch.no_grad():
        for name, layer in layers.items():
            scale = layer.scaling[NAME]
            for part, factor in (("A", 1.0), ("B", 1 / scale)):
                weight = getattr(layer, f"lora_{part}")[NAME].weight
                given = state[f"{name}.lora_{part}.weight"]
                if given.shape != weight.shape:
                    raise InputError(
                        f"{name}: the adapter has another rank ({tuple(given.shape)}, not {tuple(weight.shape)})"
                    )
                weight.copy_(given * factor)


def merge_lora(net: nn.Module) -> None:
    """Add the update to the weights and take the adapter away; all weights are frozen then."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
    for attribute in ("peft_config", "_hf_peft_config_loaded"):  # left by peft or by diffusers' own loader
        vars(net).pop(attribute, None)


def summed(states: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One adapter whose update is the sum of several ones: A's rows and B's columns side by side."""
    return {
        name: torch.cat([state[name] for state in states], dim=0 if name.endswith("lora_A.weight") else 1).contiguous()
        for name in states[0]
    }
