"""`estimate`: from a csv of tasks to spectrum, prior, noise, tasks needed, and predictions on held-out tasks."""

import math
from typing import Any

from shared_core.errors import InputError, RunError

from icl_linear import figures
from icl_linear.attention_risk import excess_risk
from icl_linear.bound import effective_dimension
from icl_linear.estimate import compare_held_out, estimate_problem
from icl_linear.output import emit
from icl_linear.plan import tasks_needed
from icl_linear.stable_step import max_stable_step
from icl_linear.task_table import fit_scaling, read_tasks


def estimate_table(
    data: str,
    task: str,
    target: str,
    context: int | None,
    fraction: float,
    standardize: bool,
    splits: int,
    passes: int,
    most: int,
    seed: int,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """Spectrum, prior and noise of a csv of tasks, tasks needed, and predictions on held-out tasks."""
    table = read_tasks(data, task, target)
    context = max(min(len(part) for part in table.y) // 2, 1) if context is None else context
    if not 0 < fraction < 1:
        raise InputError(f"--fraction must be between 0 and 1, got {fraction:g}")
    contenders = compare_held_out(table, context, splits=splits, passes=passes, standardize=standardize, seed=seed)
    fit = estimate_problem(fit_scaling(table, standardize).apply(table), seed=seed)
    problem = fit.problem
    start = float(excess_risk(problem, 0 * problem.eigenvalues, context))
    try:
        plan = tasks_needed(problem, context, fraction * start, most=most)
        needed, unmet = plan.tasks, []
    except RunError as error:
        needed, unmet = None, [f"tasks needed: {error}"]
    rows = [
        {"name": item.name, "error": item.error, "standard_error": item.standard_error, "theory": item.predicted}
        for item in contenders
    ]
    result = {
        "tasks": fit.tasks,
        "examples": fit.rows,
        "features": len(table.features),
        "context_N": context,
        "eigenvalues": problem.eigenvalues.tolist(),
        "psi": problem.psi,
        "psi_interval": list(fit.psi_interval),
        "sigma": problem.sigma,
        "sigma_interval": list(fit.sigma_interval),
        "tasks_needed": needed,
        "tasks_needed_for": f"an excess risk of {fraction:g} of the untrained model's",
        "D_eff_of_the_tasks_here": effective_dimension(
            problem, context, max(fit.tasks / math.log2(max(fit.tasks, 2)), 1), max_stable_step(problem, context) / 2
        ),
        "rows": rows,
        "notes": [
            "theory: Gaussian data with the fitted spectrum, prior and noise; real tasks need not be",
            *unmet,
        ],
    }
    shown = {
        "estimate": figures.bars_figure(rows, value="error", error="standard_error", expected="theory"),
        "spectrum": figures.curves_figure(
            list(range(1, problem.d + 1)), {"eigenvalues of H": problem.eigenvalues.tolist()}, x="i", y="eigenvalue"
        ),
    }
    H = "".join(",".join(f"{value:.17g}" for value in row) + "\n" for row in problem.covariance.tolist())
    tables = {"covariance.csv": H}
    emit("estimate", result, settings=settings, figures=shown, out=out, as_json=as_json, tables=tables)
