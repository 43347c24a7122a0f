"""law, bound and compare."""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from shared_core.errors import InputError

from ctmc_bounds import figures
from ctmc_bounds.certified import certified_bound, constant_bias_score_term, early_stopping_tv, tv_to_data
from ctmc_bounds.checks import MOST_INTERVALS
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import keeps_symmetry
from ctmc_bounds.girsanov import girsanov_terms, telescoped_bound
from ctmc_bounds.laws import Law
from ctmc_bounds.marginals import Marginals, choose_space
from ctmc_bounds.output import emit, run_folder
from ctmc_bounds.remembered_bounds import STATUS, paper_bound
from ctmc_bounds.samplers import SAMPLERS, TimeFrozen
from ctmc_bounds.verbs.problem import Problem, calls_notes, check_samplers

SHOWN_STATES = 64


def law_row(problem: Problem, data: DataLaw, name: str | None = None) -> tuple[dict[str, Any], Law]:
    """One sampler's exact law as a row."""
    schedule = problem.schedule(data, name)
    sampler = problem.sampler_on(schedule, name)
    begun = time.perf_counter()
    law = sampler.law(data, problem.estimator(data), problem.init, problem.representation)  # type: ignore[arg-type]
    row = {
        "sampler": sampler.name,
        "N": 0 if sampler.name == "thinning" else schedule.N,
        "calls": sampler.expected_calls(data.ctmc),
        "KL": law.kl,
        "TV": law.tv,
        "chi2": law.chi2,
        "mass_defect": law.mass_defect,
        "representation": law.space.kind,
        "states": law.space.n * law.space.copies,
        "products": law.products,
        "seconds": time.perf_counter() - begun,
    }
    return row | law.notes, law


def law(problem: Problem, out: str | None, as_json: bool) -> None:
    """The exact law of one sampler."""
    with run_folder("law", problem.settings(), out) as folder:
        data = problem.data_law()
        row, found = law_row(problem, data)
        notes = [f"{row['sampler']}: {SAMPLERS[row['sampler']].origin}.", *calls_notes(problem, [row["sampler"]])]
        if row["TV"] is None:
            notes.append(f"TV of a product law of {data.S}^{data.d} states is not enumerated; TV <= sqrt(KL/2).")
        result = {"data": problem.data, "rows": [row], "notes": notes}
        emit("law", result, {"law": _law_picture(found)}, folder, as_json)


def _law_picture(found: Law) -> Any:
    target, made = found.target.reshape(-1), found.probabilities.reshape(-1)
    unit = "number of the count vector" if found.space.kind == "counts" else "state, by falling probability"
    if found.space.kind != "counts":
        order = torch.argsort(target, descending=True, stable=True)[:SHOWN_STATES]
        target, made = target[order], made[order]
    return figures.law_figure(target.tolist(), made.tolist(), f"KL = {found.kl:.4g}", unit)


def bound(problem: Problem, C1: float | None, constant: float, out: str | None, as_json: bool) -> None:
    """Every bound beside the measured KL."""
    if problem.sampler not in ("paper", "uniformization", "midpoint"):
        raise InputError(
            f"--sampler {problem.sampler}: the bounds are for time-frozen samplers (paper, uniformization, midpoint);"
            " compare measures the others"
        )
    if C1 is not None and not 1 <= C1 < math.inf:
        raise InputError(f"--C1 {C1}: the largest score is at least 1 (a move or its way back has a ratio >= 1)")
    if not 0 < constant < math.inf:
        raise InputError(f"--constant {constant}: a universal constant is finite and above 0")
    with run_folder("bound", problem.settings() | {"C1": C1, "constant": constant}, out) as folder:
        result = _bounds(problem, C1, constant)
        shown = {row["quantity"].strip(): {"": row["value"]} for row in result["rows"] if row["value"] > 0}
        picture = figures.bars_figure(shown, "KL and its bounds", problem.data)
        emit("bound", result, {"bound": picture}, folder, as_json)


def _bounds(problem: Problem, C1: float | None, constant: float) -> dict[str, Any]:
    data = problem.data_law()
    estimator, schedule = problem.estimator(data), problem.schedule(data)
    sampler = problem.sampler_on(schedule)
    assert isinstance(sampler, TimeFrozen)
    measured = sampler.law(data, estimator, problem.init, problem.representation)  # type: ignore[arg-type]
    terms = girsanov_terms(data, sampler, estimator, problem.init, problem.representation)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = [{"quantity": "KL(q_delta || law), measured", "value": measured.kl, "status": "exact"}]

    def add(quantity: str, value: float, status: str) -> None:
        ratio = value / measured.kl if measured.kl > 0 else None
        rows.append({"quantity": quantity, "value": value, "bound / KL": ratio, "status": status})

    add("(G) Girsanov", terms.total, "rigorous; path KL, quadrature to rounding")
    add("(G') telescoped", telescoped_bound(data, sampler, estimator, problem.init), "the same number, another way")  # type: ignore[arg-type]
    add("  initialisation KL(q_T || start)", terms.initialisation, "exact")
    add("  score sum h L_SE(t_k)", terms.score, "exact; Assumption 1 of the paper, whose normalisation is unverified")
    add("  path term of the exact score", terms.discretisation, "exact")
    if estimator is None and problem.sampler != "midpoint":
        marginals = Marginals(data, choose_space(data, problem.representation, keeps_symmetry(estimator, data)))
        with_data = certified_bound(schedule, marginals, problem.init)  # type: ignore[arg-type]
        add("(C) certified closed form", with_data.total, with_data.status)
        if schedule.delta > 0:
            any_data = certified_bound(schedule, data.ctmc, problem.init)  # type: ignore[arg-type]
            add("(C) worst case over data", any_data.total, any_data.status)
    if problem.score_bias and not problem.score_noise and problem.network is None:
        exact = constant_bias_score_term(data.ctmc, schedule.T, schedule.delta, problem.score_bias)
        add("(B) score term of a constant log-bias", exact, "closed form")
    if schedule.delta > 0 or C1 is not None:
        add(
            "paper, Theorem 1 (form from memory)",
            paper_bound(data.ctmc, schedule, "thm1", terms.score, C1, constant=constant).total,
            STATUS,
        )
    if schedule.delta == 0:
        add(
            "paper, Theorem 2 (form from memory)",
            paper_bound(data.ctmc, schedule, "thm2", terms.score, constant=constant).total,
            STATUS,
        )
    early = early_stopping_tv(data.ctmc, schedule.delta)
    extra = {
        "tv_measured": measured.tv,
        "tv_early_stopping_bound": early["stay"],
        "tv_to_data_bound": tv_to_data(data.ctmc, schedule.delta, terms.total),
    }
    note = f"universal constant of the paper's form taken as {constant:g}; never a certificate"
    return {"data": problem.data, **extra, "rows": rows, "notes": [note]}


def compare(problem: Problem, samplers: list[str], calls: list[float], out: str | None, as_json: bool) -> None:
    """Exact KL of several samplers at equal network calls."""
    check_samplers(samplers)
    if not calls or not all(1 <= budget <= MOST_INTERVALS for budget in calls):
        raise InputError(f"--calls {calls}: a budget is 1 to {MOST_INTERVALS} calls per sample")
    with run_folder("compare", problem.settings() | {"samplers": samplers, "calls": calls}, out) as folder:
        data = problem.data_law()
        rows, notes = _compared(problem, data, samplers, calls)
        curves = {name: [row for row in rows if row["sampler"] == name] for name in samplers}
        picture = figures.calls_figure(
            {name: ([row["calls"] for row in found], [row["KL"] for row in found]) for name, found in curves.items()},
            problem.data,
        )
        result = {"data": problem.data, "rows": rows, "notes": [*notes, *calls_notes(problem, samplers)]}
        emit("compare", result, {"kl-against-calls": picture}, folder, as_json)


def _compared(
    problem: Problem, data: DataLaw, samplers: list[str], calls: list[float]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and what was left out.

    Raises:
        InputError: if nothing is left.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name in samplers:
        for budget in calls if name != "thinning" else [0.0]:
            N = steps_for(name, budget, data, problem.T, problem.delta)
            if N < 1:
                needed = "two calls a step" if name.startswith("theta") else "its jumps alone"
                notes.append(f"{name}: {budget:g} calls are fewer than {needed}; left out")
                continue
            try:
                rows.append(law_row(replace(problem, N=N), data, name)[0])
            except InputError as reason:
                notes.append(f"{name}, N = {N}: {reason}")
    notes = list(dict.fromkeys(notes))
    if not rows:
        raise InputError(f"nothing to compare: {notes[0]}")
    return rows, notes


def steps_for(name: str, budget: float, data: DataLaw, T: float, delta: float) -> int:
    """The most intervals with expected calls <= budget."""
    if name in ("paper", "midpoint", "uniformization"):
        return int(budget - data.ctmc.expected_jumps(T, delta))
    if name.startswith("theta"):
        return int(budget // 2)
    return 1 if name == "thinning" else int(budget)
