"""Checkpoints of a training: weights, averages and moments in one file that appears whole; no record."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path
from torch import Tensor

from d3pm_ehr.generator import EHRD3PM
from d3pm_ehr.training import TrainingState


def save_state(folder: Path, model: EHRD3PM, state: TrainingState) -> None:
    """The checkpoint of a training, in one file that appears whole: weights, averages and moments, no record."""
    tensors = {f"model/{name}": value for name, value in model.denoiser.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in state.ema.items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    tensors |= {f"times/{name}": value for name, value in state.times.items()}
    for index, moments in state.optimizer.items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    metadata = {"step": state.step, "best": state.best_loss.hex(), "stale": state.stale}
    metadata |= {"stopped": int(state.stopped)}
    with atomic_path(folder / "checkpoint.safetensors") as aside:
        # copies: safetensors refuses tensors that share memory, and ema and best may
        save_file(
            {name: value.detach().cpu().clone() for name, value in tensors.items()},
            aside,
            {k: str(v) for k, v in metadata.items()},
        )


def load_state(folder: Path, model: EHRD3PM) -> TrainingState:
    """Restore weights in place and return the state; a fresh one where there is no checkpoint yet.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return TrainingState()
    try:
        tensors = load_file(path, device=str(model.device))
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "best": {}, "times": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        model.denoiser.load_state_dict(parts["model"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = value
        times = {name: value.cpu() for name, value in parts["times"].items()}
        return TrainingState(
            int(metadata["step"]), parts["ema"], parts["best"],
            float.fromhex(metadata["best"]), int(metadata["stale"]), moments, times, metadata["stopped"] == "1",
        )  # fmt: skip
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from error
