"""k-sparse parity by sign SGD, to the statistical-query limit."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity_sgd.accuracy import Accuracy, exact_accuracy
    from parity_sgd.baselines import brute_force, gaussian_elimination
    from parity_sgd.fitting import SupportFit, fit_file, fit_support
    from parity_sgd.gradient import batch_gradient, critical_batch, population_gradient, second_moment
    from parity_sgd.network import PolyParityNet
    from parity_sgd.neurons import (
        Outcome,
        RecoveredSupport,
        is_good,
        predict_outcome,
        recover_support,
        success_probability,
    )
    from parity_sgd.optimizer import ThresholdSignSGD, threshold_sign
    from parity_sgd.parity import SparseParity
    from parity_sgd.population import population_path, population_run
    from parity_sgd.scaling import end_to_end_batch, fit_exponent, per_step_batch, sq_queries
    from parity_sgd.searches import FitSettings
    from parity_sgd.settings import SignSGD
    from parity_sgd.training import TrainedRun, Trainer, train

_HOME = {
    "accuracy": ("Accuracy", "exact_accuracy"),
    "baselines": ("brute_force", "gaussian_elimination"),
    "fitting": ("SupportFit", "fit_file", "fit_support"),
    "gradient": ("batch_gradient", "critical_batch", "population_gradient", "second_moment"),
    "network": ("PolyParityNet",),
    "neurons": (
        "Outcome",
        "RecoveredSupport",
        "is_good",
        "predict_outcome",
        "recover_support",
        "success_probability",
    ),
    "optimizer": ("ThresholdSignSGD", "threshold_sign"),
    "parity": ("SparseParity",),
    "population": ("population_path", "population_run"),
    "scaling": ("end_to_end_batch", "fit_exponent", "per_step_batch", "sq_queries"),
    "searches": ("FitSettings",),
    "settings": ("SignSGD",),
    "training": ("TrainedRun", "Trainer", "train"),
}

__all__ = [
    "Accuracy",
    "FitSettings",
    "Outcome",
    "PolyParityNet",
    "RecoveredSupport",
    "SignSGD",
    "SparseParity",
    "SupportFit",
    "ThresholdSignSGD",
    "TrainedRun",
    "Trainer",
    "batch_gradient",
    "brute_force",
    "critical_batch",
    "end_to_end_batch",
    "exact_accuracy",
    "fit_exponent",
    "fit_file",
    "fit_support",
    "gaussian_elimination",
    "is_good",
    "per_step_batch",
    "population_gradient",
    "population_path",
    "population_run",
    "predict_outcome",
    "recover_support",
    "second_moment",
    "sq_queries",
    "success_probability",
    "threshold_sign",
    "train",
]


def __getattr__(name: str) -> Any:
    # torch and numba are imported with the first name that needs them, so that `parity-sgd --help` stays fast.
    for module, names in _HOME.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
