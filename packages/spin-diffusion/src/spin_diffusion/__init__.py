"""Self-play fine-tuning of diffusion models (SPIN-Diffusion): better on one image a prompt, playing its last self."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spin_diffusion.config import Lora, Optimization, Sampler, SPINConfig, preset
    from spin_diffusion.latent_cache import prepare_cache, read_cache
    from spin_diffusion.losses import SPINLossOutput, denoising_error, dpo_loss, sft_loss, spin_loss
    from spin_diffusion.opponents import generate_opponents
    from spin_diffusion.pipelines import Parts, load_parts
    from spin_diffusion.sampling import sample
    from spin_diffusion.schedules import FlowSchedule, NoiseSchedule, schedule_of
    from spin_diffusion.self_play import Iteration, SPINTrainer
    from spin_diffusion.supervised import fine_tune, prefer
    from spin_diffusion.training_set import TensorRows, TrainingSet

_MODULES = {
    "config": ("Lora", "Optimization", "SPINConfig", "Sampler", "preset"),
    "latent_cache": ("prepare_cache", "read_cache"),
    "losses": ("SPINLossOutput", "denoising_error", "dpo_loss", "sft_loss", "spin_loss"),
    "opponents": ("generate_opponents",),
    "pipelines": ("Parts", "load_parts"),
    "sampling": ("sample",),
    "schedules": ("FlowSchedule", "NoiseSchedule", "schedule_of"),
    "self_play": ("Iteration", "SPINTrainer"),
    "supervised": ("fine_tune", "prefer"),
    "training_set": ("TensorRows", "TrainingSet"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "FlowSchedule", "Iteration", "Lora", "NoiseSchedule", "Optimization", "Parts", "SPINConfig", "SPINLossOutput",
    "SPINTrainer", "Sampler", "TensorRows", "TrainingSet", "denoising_error", "dpo_loss", "fine_tune",
    "generate_opponents", "load_parts", "prefer", "prepare_cache", "preset", "read_cache", "sample", "schedule_of",
    "sft_loss", "spin_loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
