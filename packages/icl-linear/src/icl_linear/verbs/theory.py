"""The theory's verbs: each gathers the public functions into rows and figures."""

import logging
import math
from typing import Any

import torch
from shared_core.errors import InputError

from icl_linear import figures
from icl_linear.attention_risk import excess_risk, infinite_context_floor, minimal_risk, mismatch_excess, risk
from icl_linear.bound import attention_rate, ridge_rate, task_bound
from icl_linear.checks import check_count, check_length, check_positive
from icl_linear.expected_run import expected_sgd
from icl_linear.one_pass_sgd import sgd
from icl_linear.options import read_gamma
from icl_linear.output import emit
from icl_linear.plan import tasks_needed
from icl_linear.problem import Problem
from icl_linear.ridge import bayes_risk
from icl_linear.schedule import make_schedule
from icl_linear.stable_step import max_stable_step, step_for

log = logging.getLogger(__name__)
HEAVY_TAILS = (
    "sampled: after few steps the excess of a run is heavy tailed, so a mean over few runs tends to lie below the"
    " expectation and its standard error to be too small"
)


def risk_table(
    problem: Problem,
    contexts: list[int],
    lengths: list[int] | None,
    gamma: str | None,
    draws: int,
    seed: int,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """Exact risk of attention trained at N and tested at M beside ridge, the best at M, and predicting 0."""
    tested = [int(check_length("--test", m)) for m in (lengths or contexts)]
    trained = [int(check_length("--context", n)) for n in contexts]
    given = None if gamma is None else read_gamma(gamma, problem)
    noise = problem.sigma**2
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for m in tested:
        ridge = bayes_risk(problem, m, draws, seed)
        best = float(minimal_risk(problem, m))
        for n in trained if given is None else [0]:
            model = problem.gamma_star(n) if given is None else given
            value = float(risk(problem, model, m).mean())  # over the runs, where a file holds many
            rows.append(
                {
                    **({"context_N": n} if given is None else {"gamma": str(gamma)}),
                    "test_M": m,
                    "risk": value,
                    "excess_over_noise": value - noise,
                    "excess": float(excess_risk(problem, model, m).mean()),
                    "regret": value - ridge.mean,
                    "best_attention": best,
                    "ridge": ridge.mean,
                    "ridge_error": ridge.standard_error,
                }
            )
            if value > problem.zero_risk:
                source = f"trained at N = {n}" if given is None else "this Gamma"
                notes.append(
                    f"{source}, tested at M = {m}: worse than predicting 0 ({value:.4g} > {problem.zero_risk:.4g})"
                )
    if given is None:
        notes += [
            f"N = {n}: excess over the noise stays at {float(infinite_context_floor(problem, n)):.4g} as M grows"
            for n in trained
        ]
    curves = {
        (f"attention, N = {n}" if given is None else "given Gamma"): [
            row["excess_over_noise"] for row in rows if row.get("context_N", n) == n
        ]
        for n in (trained if given is None else [0])
    }
    curves["best attention, N = M"] = [float(minimal_risk(problem, m)) - noise for m in tested]
    curves["ridge (Bayes)"] = [next(row["ridge"] for row in rows if row["test_M"] == m) - noise for m in tested]
    figure = figures.curves_figure(
        tested, curves, dashed=["ridge (Bayes)"], x="examples at test, M", y="risk over the noise"
    )
    result = {"d": problem.d, "noise": noise, "risk_of_zero": problem.zero_risk, "rows": rows, "notes": notes}
    emit("risk", result, settings=settings, figures={"risk": figure}, out=out, as_json=as_json)


def learning_curve(
    problem: Problem,
    context: int,
    tasks: list[int],
    schedule: str,
    learning_rate: float | None,
    batch_size: int,
    lengths: list[int],
    runs: int,
    seed: int,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """Exact expected excess risk after T steps, the bound beside it, other test lengths, and sampled runs."""
    check_length("--context", context)
    if runs:
        check_count("--runs", runs, least=2)  # one has no standard error
    gamma0 = step_for(problem, context, learning_rate, batch_size)
    start = float(excess_risk(problem, 0 * problem.eigenvalues, context))
    rows: list[dict[str, Any]] = []
    for steps in sorted({check_count("--tasks", count, least=2) for count in tasks}):
        chosen = make_schedule(schedule, gamma0, steps)
        run = expected_sgd(problem, context, chosen, batch_size=batch_size)
        bound = task_bound(problem, context, chosen)
        row = {"steps": steps, "excess": float(run.excess[-1]), "of_start": float(run.excess[-1]) / start}
        row |= {"bound": bound.total, "D_eff": bound.effective_dimension}
        row |= {f"risk_M{m}": float(run.excess_at(m)[-1]) + problem.sigma**2 for m in lengths}
        if runs:
            generator = torch.Generator(problem.eigenvalues.device).manual_seed(seed)
            found = sgd(problem, context, chosen, generator, runs=runs, batch_size=batch_size)
            values = excess_risk(problem, found, context)
            row |= {"sampled": float(values.mean()), "sampled_error": float(values.std() / math.sqrt(runs))}
        rows.append(row)
    steps_ = [row["steps"] for row in rows]
    curves = {"exact expectation": [row["excess"] for row in rows], "bound, constant 1": [row["bound"] for row in rows]}
    curves["what the best attention lacks to Bayes"] = [
        float(minimal_risk(problem, context)) - bayes_risk(problem, context, seed=seed).mean
    ] * len(rows)
    points = None
    if runs:
        half = [1.96 * row["sampled_error"] for row in rows]
        points = {f"{runs} sampled runs, 95 %": (steps_, [row["sampled"] for row in rows], half)}
    figure = figures.curves_figure(steps_, curves, dashed=["bound, constant 1"], points=points)
    result = {
        "d": problem.d,
        "parameters": problem.d**2,
        "learning_rate": gamma0,
        "largest_stable_learning_rate": max_stable_step(problem, context, batch_size),
        "excess_untrained": start,
        "minimal_risk": float(minimal_risk(problem, context)),
        "rows": rows,
        "notes": _scope(problem)
        + (["the bound is for one task in each step"] if batch_size > 1 else [])
        + ([HEAVY_TAILS] if runs else []),
    }
    emit("curve", result, settings=settings, figures={"curve": figure}, out=out, as_json=as_json)


def bound_table(
    problem: Problem,
    context: int,
    tasks: list[int],
    learning_rate: float | None,
    lengths: list[int],
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """The bound's terms beside the exact excess risk, and the rates of ridge and attention beside exact risks."""
    check_positive("sigma", problem.sigma)  # the rates divide by it
    gamma0 = step_for(problem, context, learning_rate)
    rows = []
    for steps in sorted({check_count("--tasks", count, least=2) for count in tasks}):
        chosen = make_schedule("geometric", gamma0, steps)
        bound, exact = task_bound(problem, context, chosen), float(expected_sgd(problem, context, chosen).excess[-1])
        rows.append(
            {
                "tasks": steps,
                "T_eff": bound.effective_tasks,
                "D_eff": bound.effective_dimension,
                "bias": bound.bias,
                "variance": bound.variance,
                "bound": bound.total,
                "exact": exact,
                "exact/bound": exact / bound.total,
            }
        )
    at_length = {}
    for m in lengths:
        ridge, attention = bayes_risk(problem, m).mean - problem.sigma**2, risk(problem, problem.gamma_star(context), m)
        at_length[str(m)] = {
            "ridge/rate": ridge / ridge_rate(problem, m),
            "attention/rate": (float(attention) - problem.sigma**2) / attention_rate(problem, context, m),
            "mismatch": float(mismatch_excess(problem, context, m)),
        }
    ts = [row["tasks"] for row in rows]
    figure = figures.curves_figure(
        ts,
        {name: [row[name] for row in rows] for name in ("exact", "bound", "bias", "variance")},
        dashed=["bias", "variance"],
    )
    effective = figures.curves_figure(ts, {"D_eff": [row["D_eff"] for row in rows]}, y="effective dimension")
    effective.axes[0].axhline(problem.d**2, color="black", linestyle=":", label="d^2")
    effective.axes[0].legend(fontsize=8)
    result: dict[str, Any] = {"d": problem.d, "parameters": problem.d**2, "learning_rate": gamma0, "rows": rows}
    result |= {f"at_length_{m}": value for m, value in at_length.items()} | {"notes": _scope(problem)}
    emit(
        "bound", result, settings=settings, figures={"bound": figure, "dimension": effective}, out=out, as_json=as_json
    )


def plan_table(
    problem: Problem,
    context: int,
    target: float,
    relative: bool,
    schedule: str,
    learning_rate: float | None,
    batch_size: int,
    most: int,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """Pretraining tasks that reach a target excess risk."""
    gamma0 = step_for(problem, context, learning_rate, batch_size)
    start = float(excess_risk(problem, 0 * problem.eigenvalues, context))
    if relative and not 0 < target < 1:
        raise InputError(f"--target must be between 0 and 1 as a share of the untrained excess risk, got {target:g}")
    found = tasks_needed(
        problem,
        context,
        target * (start if relative else 1),
        schedule=schedule,
        learning_rate=gamma0,
        batch_size=batch_size,
        most=most,
    )
    rows = [{"steps": steps, "excess": value} for steps, value in found.tried]
    figure = figures.curves_figure(
        [row["steps"] for row in rows], {"exact expectation": [row["excess"] for row in rows]}
    )
    figure.axes[0].axhline(found.target, color="black", linestyle=":", label="target")
    figure.axes[0].axvline(found.tasks // batch_size, color="C1", linestyle="--", label=f"{found.tasks} tasks")
    figure.axes[0].legend(fontsize=8)
    ridge = bayes_risk(problem, context)
    result = {
        "tasks_needed": found.tasks,
        "examples_needed": found.tasks * (context + 1),
        "target_excess": found.target,
        "excess_reached": found.excess,
        "excess_untrained": found.start,
        "parameters": found.parameters,
        "effective_dimension": found.effective_dimension,
        "bound_there": found.bound,
        "learning_rate": found.learning_rate,
        "risk_reached": found.excess + float(minimal_risk(problem, context)),
        "bayes_risk": ridge.mean,
        "rows": rows,
    }
    emit("plan", result, settings=settings, figures={"plan": figure}, out=out, as_json=as_json)


def _scope(problem: Problem) -> list[str]:
    """A warning where the bounds' condition does not hold (the exact values do)."""
    signal, noise = problem.psi**2 * problem.trace, problem.sigma**2
    if signal <= 10 * noise:
        return []
    return [
        f"psi^2 tr H = {signal:.3g} is far above sigma^2 = {noise:.3g}:"
        " the rates of ridge and attention are not stated for it"
    ]
