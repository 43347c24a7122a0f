"""Sharpness-aware minimisation: an optimiser wrapper, and the theory of why it generalises, simulated exactly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam_cnn.accumulation import sam_step
    from sam_cnn.huggingface import SAMTrainerMixin
    from sam_cnn.sam import SAM, rho_from_lr
    from sam_cnn.second_pass import freeze_norm_stats

_MODULES = {
    "accumulation": ("sam_step",),
    "huggingface": ("SAMTrainerMixin",),
    "sam": ("SAM", "rho_from_lr"),
    "second_pass": ("freeze_norm_stats",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `sam-cnn --help` must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)


__all__ = ["SAM", "SAMTrainerMixin", "freeze_norm_stats", "rho_from_lr", "sam_step"]
