"""Where gradient descent takes two-layer (leaky) ReLU networks: predicted, run to far horizons, compared."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaky_relu_bias.assumptions import Assumptions, check_assumptions
    from leaky_relu_bias.continuation import continue_to
    from leaky_relu_bias.datasets import load
    from leaky_relu_bias.descent import fit, frozen_pattern, normalized_gd
    from leaky_relu_bias.max_margin import Limits, limits
    from leaky_relu_bias.network import TwoLayerNet, log_loss, loss_gradient, margins
    from leaky_relu_bias.options import DataOptions
    from leaky_relu_bias.orthogonality import TrainingSet, training_set
    from leaky_relu_bias.random_features import random_fourier_features
    from leaky_relu_bias.ranks import stable_rank, stable_rank_excess
    from leaky_relu_bias.synthetic import gaussian, mixture, near_orthogonal, orthogonal
    from leaky_relu_bias.trajectory import Trajectory
    from leaky_relu_bias.verdicts import judge

# torch is imported with the first of these that is used, so that the command answers --help at once
_HOMES = {
    "Assumptions": "assumptions", "check_assumptions": "assumptions", "continue_to": "continuation",
    "DataOptions": "options", "load": "datasets", "fit": "descent", "frozen_pattern": "descent",
    "normalized_gd": "descent",
    "Limits": "max_margin", "limits": "max_margin", "gaussian": "synthetic", "mixture": "synthetic",
    "near_orthogonal": "synthetic", "orthogonal": "synthetic", "TwoLayerNet": "network",
    "log_loss": "network", "loss_gradient": "network", "margins": "network",
    "random_fourier_features": "random_features", "stable_rank": "ranks", "stable_rank_excess": "ranks",
    "TrainingSet": "orthogonality", "training_set": "orthogonality", "Trajectory": "trajectory", "judge": "verdicts",
}  # fmt: skip

__all__ = [
    "Assumptions", "DataOptions", "Limits", "TrainingSet", "Trajectory", "TwoLayerNet", "check_assumptions",
    "continue_to", "fit", "frozen_pattern", "gaussian", "judge", "limits", "load", "log_loss", "loss_gradient",
    "margins", "mixture", "near_orthogonal", "normalized_gd", "orthogonal", "random_fourier_features", "stable_rank",
    "stable_rank_excess", "training_set",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
