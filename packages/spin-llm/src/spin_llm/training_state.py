"""Weights, moments and step of a training as one safetensors file, whichever way the model is spread over processes."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

WEIGHT, MOMENT = "weight/", "moment/"


def save_state(path: Path, model: nn.Module, optimizer: Any, step: int, accelerator: Any) -> None:
    """Write what a killed training goes on from; sharded weights are gathered, frozen ones left out.

    DeepSpeed keeps its moments in formats of its own, so nothing is written: a killed training begins anew.
    """
    if is_deepspeed(accelerator):
        return
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights, found = get_state_dict(model, _plain(optimizer), options=options)
    if accelerator.is_main_process:  # gathered weights and moments are there only
        moments: Any = found["state"]  # name of a weight -> name of a moment -> value
        tensors: dict[str, Any] = {WEIGHT + name: value for name, value in weights.items()}
        for name, values in moments.items():
            tensors |= {f"{MOMENT}{name}/{key}": torch.as_tensor(value) for key, value in values.items()}
        tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
        with atomic_path(path) as aside:
            save_file(tensors, aside, metadata={"step": str(step)})
    accelerator.wait_for_everyone()


def load_state(path: Path, model: nn.Module, optimizer: Any) -> int:
    """Restore what `save_state` wrote and return the number of steps that are done.

    Raises:
        InputError: if the file is not a state of this model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            step = int((file.metadata() or {})["step"])
    except Exception as error:
        raise InputError(f"{path} is not a training state: {error}") from None
    weights = {name.removeprefix(WEIGHT): value for name, value in tensors.items() if name.startswith(WEIGHT)}
    state: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(MOMENT):
            weight, _, key = name.removeprefix(MOMENT).rpartition("/")
            state.setdefault(weight, {})[key] = value
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
    plain = _plain(optimizer)
    _, current = get_state_dict(model, plain, options=StateDictOptions(ignore_frozen_params=True))
    try:
        set_state_dict(
            model,
            plain,
            model_state_dict=weights,
            optim_state_dict={"state": state, "param_groups": current["param_groups"]},  # type: ignore[dict-item] # as torch's own
            options=options,
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a state of this model: {str(error).splitlines()[0]}") from None
    return step


def saved_step(path: Path) -> int:
    """How many steps a state holds, 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {}).get("step", 0))


def is_deepspeed(accelerator: Any) -> bool:
    """Whether DeepSpeed's engine holds the weights."""
    return _kind(accelerator) == "DEEPSPEED"


def configure_deepspeed(accelerator: Any, batch_size: int, max_grad_norm: float) -> None:
    """Tell DeepSpeed what it would otherwise read off a data loader, and that it is to clip; nothing for others."""
    if is_deepspeed(accelerator):
        wanted = accelerator.state.deepspeed_plugin.deepspeed_config
        wanted |= {"train_micro_batch_size_per_gpu": batch_size, "gradient_clipping": max_grad_norm}


def _kind(accelerator: Any) -> str:
    return str(getattr(accelerator.distributed_type, "value", "NO"))


def is_sharded(accelerator: Any) -> bool:
    """Whether each process holds a part of the weights only."""
    return _kind(accelerator) in ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def full_weights(scorer: nn.Module, accelerator: Any) -> dict[str, torch.Tensor] | None:
    """The language model's weights gathered from all processes, None where every process has them anyway."""
    if not is_sharded(accelerator):
        return None
    return {name.removeprefix("model."): value for name, value in accelerator.get_state_dict(scorer).items()}


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
