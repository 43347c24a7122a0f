"""Weights, moments and counters of a training as one safetensors file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path
from torch import Tensor


def save_state(
    path: Path,
    trained: Mapping[str, Tensor],
    optimizer: Any,
    average: Sequence[Tensor],
    step: int,
    watched: Mapping[str, float],
    accelerator: Any,
) -> None:
    """Write what a killed training goes on from."""
    if accelerator.is_main_process:
        moments = _plain(optimizer).state
        tensors: dict[str, Tensor] = {}
        for index, (name, weight) in enumerate(trained.items()):
            tensors[f"weight/{name}"] = weight
            if average:
                tensors[f"average/{name}"] = average[index]
            for key, value in moments.get(weight, {}).items():
                tensors[f"moment/{key}/{name}"] = torch.as_tensor(value)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        metadata = {"step": str(step), "watched": json.dumps(dict(watched)), "scaler": json.dumps(scaler)}
        with atomic_path(path) as aside:
            save_file(tensors, aside, metadata=metadata)
    accelerator.wait_for_everyone()


def load_state(
    path: Path, trained: Mapping[str, Tensor], optimizer: Any, average: Sequence[Tensor], accelerator: Any
) -> tuple[int, dict[str, float]]:
    """Restore what `save_state` wrote; returns the updates done and the guard's state.

    Raises:
        InputError: if the file is not a state of this training.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
        with torch.no_grad():
            for index, (name, weight) in enumerate(trained.items()):
                weight.copy_(tensors[f"weight/{name}"])
                if average:
                    average[index].copy_(tensors[f"average/{name}"])
        moments: dict[str, dict[str, Tensor]] = {}
        for entry, value in tensors.items():
            if entry.startswith("moment/"):
                _, key, name = entry.split("/", 2)
                moments.setdefault(name, {})[key] = value
        for name, weight in trained.items():
            # counters stay where torch keeps them: fused kernels want theirs on the device, others on the CPU
            _plain(optimizer).state[weight] = {
                key: value.to(weight.device) if value.ndim or _fused(optimizer) else value
                for key, value in moments[name].items()
            }
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(json.loads(metadata["scaler"]))
        return int(metadata["step"]), json.loads(metadata["watched"])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a state of this training: {str(error).splitlines()[0]}") from None


def saved_step(path: Path) -> int:
    """How many updates a state holds, 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {}).get("step", 0))


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _fused(optimizer: Any) -> bool:
    return bool(_plain(optimizer).defaults.get("fused"))
