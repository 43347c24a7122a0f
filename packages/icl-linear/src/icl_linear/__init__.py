"""How many pretraining tasks linear attention needs for in-context linear regression, in closed form."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_linear.attention import ICLTransformer, LinearAttention, deinterleave, interleave
    from icl_linear.attention_risk import (
        conditional_risk,
        excess_risk,
        infinite_context_floor,
        minimal_risk,
        mismatch_excess,
        risk,
        variable_length_optimum,
    )
    from icl_linear.bound import (
        TaskBound,
        attention_rate,
        bayes_factor,
        bayes_factor_limit,
        effective_dimension,
        ridge_rate,
        task_bound,
        theorem_step,
    )
    from icl_linear.estimate import compare_held_out, estimate_problem
    from icl_linear.expected_run import ExpectedRun, expected_sgd
    from icl_linear.one_pass_sgd import empirical_risk_minimiser, run_sgd, sgd
    from icl_linear.plan import Plan, tasks_needed
    from icl_linear.problem import Problem
    from icl_linear.prompt_moments import moments
    from icl_linear.ridge import (
        bayes_risk,
        conditional_bayes_risk,
        prefix_dmmse,
        prefix_ridge,
        ridge_coefficients,
    )
    from icl_linear.sampling import Statistics, Tasks, sample_statistics, sample_tasks
    from icl_linear.schedule import Schedule, constant, explicit, geometric, polynomial
    from icl_linear.spectra import make_problem, spectrum
    from icl_linear.stable_step import max_stable_step
    from icl_linear.task_table import fit_scaling, read_tasks
    from icl_linear.training import Training, evaluate_module, make_model, make_optimizer, train_module

_MODULES = {
    "attention": ("ICLTransformer", "LinearAttention", "deinterleave", "interleave"),
    "bound": (
        "TaskBound", "attention_rate", "bayes_factor", "bayes_factor_limit", "effective_dimension", "ridge_rate",
        "task_bound", "theorem_step",
    ),
    "estimate": ("compare_held_out", "estimate_problem"),
    "expected_run": ("ExpectedRun", "expected_sgd"),
    "stable_step": ("max_stable_step",),
    "prompt_moments": ("moments",),
    "plan": ("Plan", "tasks_needed"),
    "problem": ("Problem",),
    "ridge": ("bayes_risk", "conditional_bayes_risk", "prefix_dmmse", "prefix_ridge", "ridge_coefficients"),
    "attention_risk": (
        "conditional_risk", "excess_risk", "infinite_context_floor", "minimal_risk", "mismatch_excess", "risk",
        "variable_length_optimum",
    ),
    "sampling": ("Statistics", "Tasks", "sample_statistics", "sample_tasks"),
    "schedule": ("Schedule", "constant", "explicit", "geometric", "polynomial"),
    "one_pass_sgd": ("empirical_risk_minimiser", "run_sgd", "sgd"),
    "spectra": ("make_problem", "spectrum"),
    "task_table": ("fit_scaling", "read_tasks"),
    "training": ("Training", "evaluate_module", "make_model", "make_optimizer", "train_module"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `icl-linear --help` must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)


__all__ = [
    "ExpectedRun",
    "ICLTransformer",
    "LinearAttention",
    "Plan",
    "Problem",
    "Schedule",
    "Statistics",
    "TaskBound",
    "Tasks",
    "Training",
    "attention_rate",
    "bayes_factor",
    "bayes_factor_limit",
    "bayes_risk",
    "compare_held_out",
    "conditional_bayes_risk",
    "conditional_risk",
    "constant",
    "deinterleave",
    "effective_dimension",
    "empirical_risk_minimiser",
    "estimate_problem",
    "evaluate_module",
    "excess_risk",
    "expected_sgd",
    "explicit",
    "fit_scaling",
    "geometric",
    "infinite_context_floor",
    "interleave",
    "make_model",
    "make_optimizer",
    "make_problem",
    "max_stable_step",
    "minimal_risk",
    "mismatch_excess",
    "moments",
    "polynomial",
    "prefix_dmmse",
    "prefix_ridge",
    "read_tasks",
    "ridge_coefficients",
    "ridge_rate",
    "risk",
    "run_sgd",
    "sample_statistics",
    "sample_tasks",
    "sgd",
    "spectrum",
    "task_bound",
    "tasks_needed",
    "theorem_step",
    "train_module",
    "variable_length_optimum",
]
