"""Players on disk, in the form that stock diffusers loads: safetensors and json only."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError
from shared_core.files import atomic_folder
from torch import Tensor, nn

from spin_diffusion.lora import summed

LORA_FILE = "pytorch_lora_weights.safetensors"  # what `load_lora_weights` looks for
PLAIN_FILE = "model.safetensors"


def save_player(net: nn.Module, folder: Path, adapters: Sequence[Mapping[str, Tensor]] = ()) -> None:
    """Write a player.

    A network of diffusers goes to `folder/unet` (or `transformer`), for `from_pretrained(folder, subfolder="unet")`;
    adapters, one an iteration, go to one file on theta_0 for `load_lora_weights(folder)`; any other module is its
    weights.
    """
    with atomic_folder(folder) as aside:
        if adapters:
            prefix = component_of(net)
            weights = {f"{prefix}.{name}": value for name, value in summed(list(adapters)).items()}
            save_file(weights, aside / LORA_FILE, metadata={"format": "pt"})
        elif hasattr(net, "save_pretrained"):
            net.save_pretrained(aside / component_of(net), safe_serialization=True)  # type: ignore[operator] # diffusers'
        else:
            save_file(
                {name: value.contiguous().clone() for name, value in net.state_dict().items()}, aside / PLAIN_FILE
            )


def restore_player(net: nn.Module, folder: Path) -> None:
    """Load weights that `save_player` wrote (not an adapter) into a network of the same making, in place.

    Raises:
        InputError: if the folder is another network's.
    """
    inner = folder / component_of(net)
    files = sorted(inner.glob("*.safetensors")) if inner.is_dir() else [folder / PLAIN_FILE]
    try:
        weights = {name: value for file in files for name, value in load_file(file).items()}
        with torch.no_grad():
            net.load_state_dict(weights)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def component_of(net: nn.Module) -> str:
    """Name of the network within a pipeline."""
    return "transformer" if "Transformer" in type(net).__name__ else "unet"
