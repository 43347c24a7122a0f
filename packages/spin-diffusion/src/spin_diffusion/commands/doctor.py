"""`doctor`: what this machine has, and what a model would need on it."""

import importlib.util
import json
from typing import Any

from shared_core.device import default_precision, describe_device, resolve_device
from shared_core.errors import InputError
from shared_core.run_folder import installed_version
from torch import nn

from spin_diffusion.pipelines import load_parts
from spin_diffusion.schedules import elbo_weights, schedule_of, weight_scale

VERSIONS = ("spin-diffusion", "torch", "diffusers", "transformers", "peft", "accelerate")
OPTIONAL = {
    "bitsandbytes": "8-bit AdamW",
    "ImageReward": "the imagereward scorer",
}
GIB = 2**30


def doctor(model: str | None, device: str, lora_rank: int, as_json: bool) -> int:
    """Versions, device, precision; with a model also its memory and its schedule.

    Raises:
        InputError: for a negative rank, a device or a model that is not there.
    """
    if lora_rank < 0:
        raise InputError(f"lora_rank must be 0 (train every weight) or more, got {lora_rank}")
    where = resolve_device(device)
    about = {} if model is None else _about_model(model, lora_rank)
    found = {name: installed_version(name) for name in VERSIONS} | {
        "device": describe_device(where),
        "precision": default_precision(where),
        "optional": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
        **about,
    }
    if as_json:
        print(json.dumps(found))
    else:
        _print(found)
    return 0


def _about_model(model: str, lora_rank: int) -> dict[str, Any]:
    parts = load_parts(model)
    schedule = schedule_of(parts.scheduler)
    weights = elbo_weights(schedule)
    return {
        "model": {"kind": parts.kind, "resolution": parts.resolution, "scheduler": type(parts.scheduler).__name__},
        "prediction": {"type": schedule.prediction, "timesteps": schedule.num_steps},
        "elbo_weights": {
            "median": float(weights.median()),
            "largest": float(weights.max()),
            "mean_when_cut": weight_scale(schedule, "elbo"),
        },
        "memory_bytes": memory_estimate(parts.net, lora_rank),
    }


def _print(found: dict[str, Any]) -> None:
    lines = {name: str(found[name]) for name in (*VERSIONS, "device", "precision")}
    lines |= {
        name: f"{'there' if there else 'not installed'} ({OPTIONAL[name]})" for name, there in found["optional"].items()
    }
    if "model" in found:
        model, prediction, weights = found["model"], found["prediction"], found["elbo_weights"]
        lines["model"] = f"{model['kind']}, {model['resolution']} px, scheduler {model['scheduler']}"
        lines["prediction"] = f"{prediction['type']}, {prediction['timesteps']} timesteps"
        lines["elbo weights"] = (
            f"median {weights['median']:.3g}, largest {weights['largest']:.3g}, "
            f"mean {weights['mean_when_cut']:.3g} when cut at 10 medians"
        )
        for mode, size in found["memory_bytes"].items():
            lines[f"memory {mode}"] = f"{_readable(size)} of weights, gradients and moments (activations come on top)"
    for name, text in lines.items():
        print(f"{name:<16} {text}")


def _readable(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.2f} MiB"


def memory_estimate(net: nn.Module, lora_rank: int = 0) -> dict[str, int]:
    """Bytes of weights, gradients and AdamW's moments in float32, by reference mode."""
    weights = sum(weight.numel() for weight in net.parameters())
    if lora_rank:
        adapted = [
            m for name, m in net.named_modules() if isinstance(m, nn.Linear) and name.split(".")[-1][:3] == "to_"
        ]
        trained = sum(lora_rank * (m.in_features + m.out_features) for m in adapted)
        base = 4 * weights + 16 * trained
        return {"adapter": base, "table": base, "copy": base + 4 * weights}
    return {"table": 16 * weights, "copy": 20 * weights}
