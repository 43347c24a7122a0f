"""Self-play fine-tuning of diffusion models (SPIN-Diffusion): better on one image a prompt, playing its last self."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spin_diffusion.losses import SPINLossOutput, denoising_error, dpo_loss, sft_loss, spin_loss
    from spin_diffusion.schedules import FlowSchedule, NoiseSchedule, schedule_of

_MODULES = {
    "losses": ("SPINLossOutput", "denoising_error", "dpo_loss", "sft_loss", "spin_loss"),
    "schedules": ("FlowSchedule", "NoiseSchedule", "schedule_of"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "FlowSchedule", "NoiseSchedule", "SPINLossOutput", "denoising_error", "dpo_loss", "schedule_of", "sft_loss",
    "spin_loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
