"""Trained models at any number of test examples, beside the optimum of their length, the best attention and ridge."""

import math
from typing import Any

import torch
from shared_core.errors import InputError
from torch import Tensor, nn

from icl_linear.attention_risk import minimal_risk, risk
from icl_linear.checks import check_count
from icl_linear.problem import Problem
from icl_linear.ridge import bayes_risk
from icl_linear.training import Training, as_gamma, evaluate_module


def check_training(training: Training, runs: int, lengths: list[int]) -> None:
    """Refuse options that do not fit the model before anything is trained or read.

    Raises:
        InputError: for several runs of a module, or a test length beyond a transformer's positions.
    """
    check_count("--runs", runs)
    if training.model != "gamma" and runs != 1:
        raise InputError(f"--runs {runs} is for --model gamma; give each other model a run and a --seed of its own")
    holds = max(training.context, training.max_context or 0)
    if training.model == "gpt2" and max(lengths) > holds:
        raise InputError(f"--test {max(lengths)} exceeds what gpt2 holds, {holds} examples: raise --max-context")


def gamma_rows(problem: Problem, gamma: Tensor, context: int, lengths: list[int]) -> list[dict[str, Any]]:
    """Exact risks of the runs' Gammas (runs, d, d): mean and standard error over runs."""
    rows = []
    for m in lengths:
        values = risk(problem, gamma, m)
        error = float(values.std() / math.sqrt(len(gamma))) if len(gamma) > 1 else 0.0
        rows.append(_row(problem, context, m, float(values.mean()), error))
    return rows


def module_rows(
    model: nn.Module, problem: Problem, training: Training, lengths: list[int], prompts: int, device: torch.device
) -> list[dict[str, Any]]:
    """Risks of a module: exact where it is nothing but a Gamma, else on `prompts` fresh prompts."""
    gamma = as_gamma(model)
    if gamma is not None:
        return gamma_rows(problem, gamma[None], training.context, lengths)
    found = evaluate_module(model, problem, lengths, prompts=check_count("--prompts", prompts, 2), device=device)
    noise = problem.sigma**2
    return [_row(problem, training.context, item.length, item.model + noise, item.model_error) for item in found]


def _row(problem: Problem, context: int, m: int, value: float, error: float) -> dict[str, Any]:
    return {
        "test_M": m,
        "model": value,
        "model_error": error,
        "optimum_of_N": float(risk(problem, problem.gamma_star(context), m)),
        "best_attention": float(minimal_risk(problem, m)),
        "ridge": bayes_risk(problem, m).mean,
        "zero": problem.zero_risk,
    }
