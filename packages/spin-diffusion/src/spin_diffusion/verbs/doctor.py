"""`doctor`: what this machine has, and what a model would need on it."""

import importlib.util

from shared_core.device import default_precision, describe_device, resolve_device
from shared_core.run_folder import installed_version
from torch import nn

from spin_diffusion.pipelines import load_parts
from spin_diffusion.schedules import elbo_weights, schedule_of

VERSIONS = ("spin-diffusion", "torch", "diffusers", "transformers", "peft", "accelerate")
OPTIONAL = {
    "bitsandbytes": "8-bit AdamW",
    "ImageReward": "the imagereward scorer",
    "xformers": "not needed: SDPA is used",
}
GIB = 2**30


def doctor(model: str | None, device: str, lora_rank: int) -> int:
    """Versions, device, precision; with a model also its memory and its schedule."""
    where = resolve_device(device)
    for name in VERSIONS:
        print(f"{name:<16} {installed_version(name)}")
    print(f"{'device':<16} {describe_device(where)}")
    print(f"{'precision':<16} {default_precision(where)}")
    for name, use in OPTIONAL.items():
        there = "there" if importlib.util.find_spec(name) else "not installed"
        print(f"{name:<16} {there} ({use})")
    if model is None:
        return 0
    parts = load_parts(model)
    schedule = schedule_of(parts.scheduler)
    weights = elbo_weights(schedule)
    print(f"{'model':<16} {parts.kind}, {parts.resolution} px, scheduler {type(parts.scheduler).__name__}")
    print(f"{'prediction':<16} {schedule.prediction}, {schedule.num_steps} timesteps")
    print(f"{'elbo weights':<16} median {float(weights.median()):.3g}, largest {float(weights.max()):.3g}")
    for mode, size in memory_estimate(parts.net, lora_rank).items():
        print(
            f"{'memory ' + mode:<16} {size / GIB:.2f} GiB of weights, gradients and moments (activations come on top)"
        )
    return 0


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
