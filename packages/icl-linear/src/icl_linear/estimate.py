"""From a table of many small regression problems to the theory's constants, and back to a prediction to check.

Spectrum: pooled second moments. Prior and noise: maximum of the marginal likelihood, y_t ~ N(0, psi^2 X_t X_t^T +
sigma^2 I), which in each task's singular basis is a set of independent normals with variances psi^2 s^2 + sigma^2.
"""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from shared_core.errors import InputError, RunError
from torch import Tensor

from icl_linear.attention_risk import minimal_risk
from icl_linear.checks import check_count, check_length
from icl_linear.one_pass_sgd import empirical_risk_minimiser, run_sgd
from icl_linear.problem import Problem
from icl_linear.ridge import bayes_risk, ridge_coefficients
from icl_linear.sampling import Statistics
from icl_linear.schedule import geometric
from icl_linear.stable_step import max_stable_step
from icl_linear.task_table import TaskTable, check_rows, fit_scaling


@dataclass(frozen=True, eq=False)
class Fit:
    """Estimated constants; intervals are 95 % bootstrap intervals over tasks."""

    problem: Problem
    psi_interval: tuple[float, float]
    sigma_interval: tuple[float, float]
    tasks: int
    rows: int


def estimate_problem(table: TaskTable, bootstrap: int = 100, seed: int = 0) -> Fit:
    """Spectrum, prior and noise of a (scaled) table.

    Raises:
        InputError: for fewer than 3 tasks, or features that are linearly dependent.
        RunError: if the labels show no linear signal at all, or no noise.
    """
    if len(table.y) < 3:
        raise InputError(f"estimation needs at least 3 tasks, got {len(table.y)}")
    X = torch.cat(table.X)
    if len(X) <= X.shape[1]:
        raise InputError(f"{len(X)} rows in all are too few for {X.shape[1]} features")
    covariance = X.mT @ X / len(X)
    if float(torch.linalg.cond(covariance)) > 1e12:
        raise InputError("the features are linearly dependent: leave one out")
    parts = [_singular_terms(*task) for task in zip(table.X, table.y, strict=True)]
    owner = torch.cat([torch.full((len(s2),), index) for index, (s2, _, _) in enumerate(parts)])
    s2, r2 = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    repeats = torch.cat([part[2] for part in parts])
    psi, sigma = _marginal_maximum(s2, r2, repeats)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(bootstrap):
        counts = torch.bincount(
            torch.randint(len(parts), (len(parts),), generator=generator), minlength=len(parts)
        ).double()
        draws.append(_marginal_maximum(s2, r2, repeats * counts[owner], strict=False))
    quantiles = torch.tensor(draws or [(psi, sigma)]).double().quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
    problem = Problem.from_covariance(covariance, psi, sigma)
    low, high = quantiles.tolist()
    return Fit(problem, (low[0], high[0]), (low[1], high[1]), len(parts), len(X))


def _singular_terms(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(s^2, squared component of y, how many such components): the last entry is the residual outside X's range."""
    U, s, _ = torch.linalg.svd(X, full_matrices=False)
    inside = U.mT @ y
    outside, rest = (y @ y - inside @ inside).clamp(min=0), max(len(y) - len(s), 0)
    if rest == 0:
        return s**2, inside**2, torch.ones_like(s)
    one = torch.ones(1, dtype=s.dtype)
    return torch.cat([s**2, 0 * one]), torch.cat([inside**2, outside[None] / rest]), torch.cat([1 + 0 * s, rest * one])


def _marginal_maximum(s2: Tensor, r2: Tensor, weights: Tensor, strict: bool = True) -> tuple[float, float]:
    """(psi, sigma) of greatest marginal likelihood: psi^2 in closed form given sigma^2 / psi^2, which is searched."""
    from scipy.optimize import minimize_scalar

    total, scale = weights.sum(), float(s2.mean())

    def deviance(log_ratio: float) -> float:
        variance = s2 + scale * math.exp(log_ratio)
        psi2 = (weights * r2 / variance).sum() / total
        return float(total * psi2.log() + (weights * variance.log()).sum())

    edge = 18.0
    grid = torch.linspace(-edge, edge, 37).tolist()
    best = min(grid, key=deviance)
    found = float(minimize_scalar(deviance, bounds=(best - 1, best + 1), method="bounded").x)
    if strict and abs(found) > edge - 0.5:
        what = "no linear signal" if found > 0 else "no noise"
        raise RunError(
            f"the tasks show {what}: the estimate of sigma / psi runs off to {'infinity' if found > 0 else 0}"
        )
    variance = s2 + scale * math.exp(found)
    psi2 = float((weights * r2 / variance).sum() / total)
    return math.sqrt(psi2), math.sqrt(psi2 * scale * math.exp(found))


@dataclass(frozen=True)
class Contender:
    """Mean squared error of one predictor on held-out tasks, averaged over splits.

    Attributes:
        name: of the predictor.
        error: mean over held-out tasks and splits.
        standard_error: of that mean, over tasks (each task's errors averaged over splits first).
        predicted: what the fitted theory expects for Gaussian data, where it says something.
    """

    name: str
    error: float
    standard_error: float
    predicted: float | None


def compare_held_out(
    table: TaskTable,
    context: int,
    *,
    splits: int = 5,
    held_out: float = 0.3,
    passes: int = 1,
    standardize: bool = True,
    seed: int = 0,
) -> list[Contender]:
    """In-context prediction beside per-task ridge on tasks that pretraining has not seen.

    Each split scales, estimates and pretrains on the training tasks alone; a held-out task gives `context` random rows
    as examples and is judged on its other rows.

    Args:
        table: raw tasks.
        context: N, rows given as examples (also in pretraining).
        splits: random splits of the tasks.
        held_out: share of the tasks held out.
        passes: prompts drawn from each training task (1 is the paper's one pass).
        standardize: divide features by their pooled standard deviation.
        seed: of splits and prompts.

    Raises:
        InputError: for tasks with too few rows or too few tasks.
    """
    context = int(check_length("context", context))
    check_rows(table, context + 1)
    check_count("splits", splits)
    count = len(table.y)
    tested = max(1, round(held_out * count))
    if count - tested < 3:
        raise InputError(f"{count} tasks are too few: at least 3 must remain for pretraining beside {tested} held out")
    errors: dict[str, dict[int, list[float]]] = {}
    theory: Counter[str] = Counter()
    for split in range(splits):
        generator = torch.Generator().manual_seed(1000 * seed + split)
        order = torch.randperm(count, generator=generator).tolist()
        train = table.take(order[tested:])
        scaling = fit_scaling(train, standardize)
        train = scaling.apply(train)
        problem = estimate_problem(train, bootstrap=0).problem
        gammas = _pretrain(train, problem, context, passes, generator)
        theory.update(_expected_errors(problem, context))
        for index in order[:tested]:
            task = scaling.apply(table.take([index]))
            rows = torch.randperm(len(task.y[0]), generator=generator)
            for name, error in _judge(task.X[0][rows], task.y[0][rows], context, problem, gammas).items():
                errors.setdefault(name, {}).setdefault(index, []).append(error)
    result = []
    for name, by_task in errors.items():
        means = torch.tensor([sum(values) / len(values) for values in by_task.values()])
        spread = float(means.std() / len(means) ** 0.5) if len(means) > 1 else math.nan
        result.append(Contender(name, float(means.mean()), spread, theory[name] / splits if name in theory else None))
    return result


def _pretrain(
    train: TaskTable, problem: Problem, context: int, passes: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Gamma in three ways: the plug-in optimum, one-pass SGD, the regularised minimiser over the same prompts."""
    prompts = []
    for _ in range(check_count("passes", passes)):
        for index in torch.randperm(len(train.y), generator=generator).tolist():
            rows = torch.randperm(len(train.y[index]), generator=generator)[: context + 1]
            X, y = train.X[index][rows], train.y[index][rows]
            prompts.append((X[:-1].mT @ y[:-1] / context, X[-1], y[-1]))
    v, x, y = (torch.stack(part) for part in zip(*prompts, strict=True))
    if problem.basis is not None:
        v, x = v @ problem.basis, x @ problem.basis
    schedule = geometric(max_stable_step(problem, context) / 2, len(y))
    zero = torch.zeros(1, problem.d, problem.d, dtype=torch.float64)
    sgd = run_sgd(zero, Statistics(v[None], x[None], y[None]), torch.tensor(schedule.step_sizes()))[0]
    star = problem.to_data(torch.diag(problem.gamma_star(context)))
    found = {"attention, fitted optimum": star, "attention, one-pass SGD": problem.to_data(sgd)}
    if problem.d**2 <= 4096:
        # Shrink towards 0 by as much as the noise of a label explains, in units of the features' size.
        penalty = problem.sigma**2 / float(problem.gamma_star(context).square().mean())
        minimiser = empirical_risk_minimiser(Statistics(v, x, y), ridge=penalty)
        found["attention, least squares on the same prompts"] = problem.to_data(minimiser)
    return found


def _expected_errors(problem: Problem, context: int) -> dict[str, float]:
    return {
        "zero": problem.zero_risk,
        "attention, fitted optimum": float(minimal_risk(problem, context)),
        "ridge for each task": bayes_risk(problem, context).mean,
    }


def _judge(X: Tensor, y: Tensor, context: int, problem: Problem, gammas: dict[str, Tensor]) -> dict[str, float]:
    """Mean squared errors on the rows after the context."""
    given, answer, query, label = X[:context], y[:context], X[context:], y[context:]
    v = given.mT @ answer / context
    predictions = {"zero": torch.zeros_like(label)}
    predictions |= {name: query @ gamma @ v for name, gamma in gammas.items()}
    penalty = (problem.sigma / problem.psi) ** 2
    predictions["ridge for each task"] = query @ ridge_coefficients(given, answer, penalty)
    predictions["least squares for each task"] = (
        query @ torch.linalg.lstsq(given, answer[:, None], driver="gelsd").solution[:, 0]
    )
    return {name: float((found - label).square().mean()) for name, found in predictions.items()}
