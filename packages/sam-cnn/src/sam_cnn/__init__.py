"""Sharpness-aware minimisation: an optimiser wrapper, and the theory of why it generalises, simulated exactly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam_cnn.accumulation import sam_step
    from sam_cnn.alignment import Activity, Decomposition, activity, decompose
    from sam_cnn.base import rho_from_lr
    from sam_cnn.dynamics import Schedule, Trajectory, outputs, sample_weights
    from sam_cnn.dynamics import train as train_span
    from sam_cnn.huggingface import SAMTrainerMixin
    from sam_cnn.network import TwoLayerCNN, logistic_loss
    from sam_cnn.patches import PatchData, PatchSample, draw_patches
    from sam_cnn.phase import (
        PhaseDiagram,
        boundary,
        boundary_constant,
        phase_diagram,
        slope,
        slope_interval,
        theoretical_boundary,
    )
    from sam_cnn.sam import SAM
    from sam_cnn.second_pass import freeze_norm_stats
    from sam_cnn.simulation import Outcome, Record, Training, grid, simulate, tau_theory, trace
    from sam_cnn.span import Span, draw_spans, exact_span, initial_std, span_vectors
    from sam_cnn.test_error import clean_test_error, training_error

_MODULES = {
    "accumulation": ("sam_step",),
    "alignment": ("Activity", "Decomposition", "activity", "decompose"),
    "dynamics": ("Schedule", "Trajectory", "outputs", "sample_weights"),
    "huggingface": ("SAMTrainerMixin",),
    "network": ("TwoLayerCNN", "logistic_loss"),
    "patches": ("PatchData", "PatchSample", "draw_patches"),
    "phase": (
        "PhaseDiagram",
        "boundary",
        "boundary_constant",
        "phase_diagram",
        "slope",
        "slope_interval",
        "theoretical_boundary",
    ),
    "base": ("rho_from_lr",),
    "sam": ("SAM",),
    "second_pass": ("freeze_norm_stats",),
    "simulation": ("Outcome", "Record", "Training", "grid", "simulate", "tau_theory", "trace"),
    "span": ("Span", "draw_spans", "exact_span", "initial_std", "span_vectors"),
    "test_error": ("clean_test_error", "training_error"),
}
_HOME = {name: (module, name) for module, names in _MODULES.items() for name in names}
_HOME["train_span"] = ("dynamics", "train")


def __getattr__(name: str) -> Any:
    # Loaded on first use: `sam-cnn --help` must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(_HOME)


__all__ = [
    "Activity",
    "Decomposition",
    "Outcome",
    "PatchData",
    "PatchSample",
    "PhaseDiagram",
    "Record",
    "SAM",
    "SAMTrainerMixin",
    "Schedule",
    "Span",
    "Training",
    "Trajectory",
    "TwoLayerCNN",
    "activity",
    "boundary",
    "boundary_constant",
    "clean_test_error",
    "decompose",
    "draw_patches",
    "draw_spans",
    "exact_span",
    "freeze_norm_stats",
    "grid",
    "initial_std",
    "logistic_loss",
    "outputs",
    "phase_diagram",
    "rho_from_lr",
    "sam_step",
    "sample_weights",
    "simulate",
    "slope",
    "slope_interval",
    "span_vectors",
    "tau_theory",
    "theoretical_boundary",
    "trace",
    "train_span",
    "training_error",
]
