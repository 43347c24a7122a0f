"""Exact laws, samplers and error bounds of score-based discrete diffusion on [S]^d."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctmc_bounds.cavity_network import CavityMLP, NetworkShape, Training, load_network, train_cavity_network
    from ctmc_bounds.certified import (
        certified_bound,
        constant_bias_score_term,
        early_stopping_tv,
        movement_constant,
        tv_to_data,
    )
    from ctmc_bounds.chains import HMMData, IsingRing, MarkovChainData
    from ctmc_bounds.checks import EnvelopeError
    from ctmc_bounds.data_laws import CallableData, DataLaw, MixtureData, ProductData, TableData
    from ctmc_bounds.divergences import chi2, kl, tv
    from ctmc_bounds.error_split import ErrorSplit, split_error
    from ctmc_bounds.estimators import (
        CallableScore,
        Clipped,
        ConstantBias,
        LogNormalNoise,
        NetworkScore,
        ScoreEstimator,
        Tempered,
    )
    from ctmc_bounds.exchangeable import ExchangeableData, curie_weiss, two_point
    from ctmc_bounds.forward import UniformCTMC
    from ctmc_bounds.girsanov import GirsanovTerms, girsanov_terms, path_monte_carlo, telescoped_bound
    from ctmc_bounds.identities import verify_identities
    from ctmc_bounds.laws import Law
    from ctmc_bounds.local_error import error_density, optimal_schedule
    from ctmc_bounds.losses import denoising_score_entropy, posterior_cross_entropy, score_entropy
    from ctmc_bounds.marginals import Marginals, choose_space
    from ctmc_bounds.parametrisation import (
        cavity_to_posterior,
        cavity_to_score,
        posterior_to_cavity,
        posterior_to_score,
        score_to_cavity,
        score_to_posterior,
    )
    from ctmc_bounds.planner import Plan, plan_steps
    from ctmc_bounds.real_data import digit_patches, empirical
    from ctmc_bounds.remembered_bounds import PaperBound, fit_constant, paper_bound
    from ctmc_bounds.samplers import (
        SAMPLERS,
        Euler,
        FirstJump,
        Midpoint,
        Sampler,
        Samples,
        TauLeapingOrdinal,
        TauLeapingReject,
        ThetaRK2,
        ThetaTrapezoidal,
        Thinning,
        TimeFrozen,
        Tweedie,
        Uniformization,
        make_sampler,
        noised,
    )
    from ctmc_bounds.schedules import Schedule, constant, exp_const
    from ctmc_bounds.spaces import CountSpace, EnumeratedSpace, TokenSpace
    from ctmc_bounds.spec import read_data

# torch is imported with the first of these that is used, so that the command answers --help at once
_MODULES = {
    "cavity_network": ["CavityMLP", "NetworkShape", "Training", "load_network", "train_cavity_network"],
    "certified": [
        "certified_bound", "constant_bias_score_term", "early_stopping_tv", "movement_constant", "tv_to_data",
    ],
    "chains": ["HMMData", "IsingRing", "MarkovChainData"],
    "checks": ["EnvelopeError"],
    "data_laws": ["CallableData", "DataLaw", "MixtureData", "ProductData", "TableData"],
    "divergences": ["chi2", "kl", "tv"],
    "local_error": ["error_density", "optimal_schedule"],
    "error_split": ["ErrorSplit", "split_error"],
    "estimators": [
        "CallableScore", "Clipped", "ConstantBias", "LogNormalNoise", "NetworkScore", "ScoreEstimator", "Tempered",
    ],
    "exchangeable": ["ExchangeableData", "curie_weiss", "two_point"],
    "forward": ["UniformCTMC"],
    "girsanov": ["GirsanovTerms", "girsanov_terms", "path_monte_carlo", "telescoped_bound"],
    "identities": ["verify_identities"],
    "laws": ["Law"],
    "losses": ["denoising_score_entropy", "posterior_cross_entropy", "score_entropy"],
    "marginals": ["Marginals", "choose_space"],
    "remembered_bounds": ["PaperBound", "fit_constant", "paper_bound"],
    "parametrisation": [
        "cavity_to_posterior", "cavity_to_score", "posterior_to_cavity", "posterior_to_score", "score_to_cavity",
        "score_to_posterior",
    ],
    "planner": ["Plan", "plan_steps"],
    "real_data": ["digit_patches", "empirical"],
    "samplers": [
        "SAMPLERS", "Euler", "FirstJump", "Midpoint", "Sampler", "Samples", "TauLeapingOrdinal", "TauLeapingReject",
        "ThetaRK2", "ThetaTrapezoidal", "Thinning", "TimeFrozen", "Tweedie", "Uniformization", "make_sampler", "noised",
    ],
    "schedules": ["Schedule", "constant", "exp_const"],
    "spaces": ["CountSpace", "EnumeratedSpace", "TokenSpace"],
    "spec": ["read_data"],
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "SAMPLERS", "CallableData", "CallableScore", "CavityMLP", "Clipped", "ConstantBias", "CountSpace", "DataLaw",
    "EnumeratedSpace", "EnvelopeError", "ErrorSplit", "Euler", "ExchangeableData", "FirstJump", "GirsanovTerms",
    "HMMData", "IsingRing", "Law", "LogNormalNoise", "Marginals", "MarkovChainData", "Midpoint", "MixtureData",
    "NetworkScore", "NetworkShape", "PaperBound", "Plan", "ProductData", "Sampler", "Samples", "Schedule",
    "ScoreEstimator", "TableData", "TauLeapingOrdinal", "TauLeapingReject", "Tempered", "ThetaRK2", "ThetaTrapezoidal",
    "Thinning", "TimeFrozen", "TokenSpace", "Training", "Tweedie", "UniformCTMC", "Uniformization",
    "cavity_to_posterior", "cavity_to_score", "certified_bound", "chi2", "choose_space", "constant",
    "constant_bias_score_term", "curie_weiss", "denoising_score_entropy", "digit_patches", "early_stopping_tv",
    "empirical", "error_density", "exp_const", "fit_constant", "girsanov_terms", "kl", "load_network", "make_sampler",
    "movement_constant", "noised", "optimal_schedule", "paper_bound", "path_monte_carlo", "plan_steps",
    "posterior_cross_entropy", "posterior_to_cavity", "posterior_to_score", "read_data", "score_entropy",
    "score_to_cavity", "score_to_posterior", "split_error", "telescoped_bound", "train_cavity_network", "tv",
    "tv_to_data", "two_point", "verify_identities",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
