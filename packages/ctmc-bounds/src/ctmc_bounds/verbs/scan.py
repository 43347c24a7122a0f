"""scan: one quantity varied, exact KL and bounds, local exponents; resumable row by row."""

import math
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from shared_core.errors import InputError
from shared_core.logging import progress
from shared_core.run_folder import RunFolder

from ctmc_bounds import figures
from ctmc_bounds.certified import certified_bound
from ctmc_bounds.estimators import keeps_symmetry
from ctmc_bounds.girsanov import girsanov_terms
from ctmc_bounds.marginals import Marginals, choose_space
from ctmc_bounds.output import emit, run_folder
from ctmc_bounds.planner import plan_steps
from ctmc_bounds.remembered_bounds import fit_constant, paper_bound
from ctmc_bounds.samplers import TimeFrozen
from ctmc_bounds.samplers.base import check_support
from ctmc_bounds.verbs.laws import law_row
from ctmc_bounds.verbs.problem import Problem, calls_notes, check_samplers

LEFT_OUT = ("chi2", "mass_defect", "representation", "states", "products")  # what `law` says of each row
OVER = ("d", "S", "N", "T", "delta", "eps", "sigma", "h")


def scan(
    problem: Problem, over: str, values: list[float], samplers: list[str], bounds: bool, h: float | None,
    out: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Rows for every value and sampler."""
    check_samplers(samplers)
    _check_values(over, values, h)
    for value in values:
        for name in samplers:
            _check_cell(problem, over, value, name, h)
    settings = problem.settings() | {"h": h, "over": over, "values": values, "samplers": samplers, "bounds": bounds}
    cells = [(value, name) for value in values for name in samplers]
    with run_folder("scan", settings, out) as folder:
        rows = [
            _kept(folder, problem, over, value, name, bounds, h) for value, name in progress(cells, f"scan over {over}")
        ]
        emit("scan", *_summary(problem, over, samplers, rows), folder, as_json)


def _check_values(over: str, values: list[float], h: float | None) -> None:
    if over not in OVER:
        raise InputError(f"--over {over!r} is none of {', '.join(OVER)}")
    if not values:
        raise InputError("--values is empty; give numbers separated by commas")
    if not all(math.isfinite(value) for value in values):
        raise InputError(f"--values for --over {over} must be finite, got {values}")
    if over in ("d", "S", "N") and any(value != int(value) for value in values):
        raise InputError(f"--values for --over {over} must be whole numbers, got {values}")
    if over in ("h", "eps") and min(values) <= 0:
        raise InputError(f"--values for --over {over} must be above 0, got {values}")
    if h is not None and (over not in ("T", "d", "S", "delta", "sigma") or not 0 < h < math.inf):
        raise InputError(f"--h {h:g} with --over {over}: a fixed step above 0 goes with T, d, S, delta or sigma")


def _check_cell(problem: Problem, over: str, value: float, name: str, h: float | None) -> None:
    """Refuse what one cell would be refused for, before the first is computed; laws too large to compute show later."""
    if over == "eps":
        problem.data_law()
        return
    changed, keys = _varied(problem, over, value, h)
    data = changed.data_law(**keys)
    # the optimal grid is found by work; what refuses it refuses equal steps too
    cheap = replace(changed, grid="constant") if changed.grid == "optimal" else changed
    schedule = cheap.schedule(data, name)
    changed.sampler_on(schedule, name)
    check_support(data, schedule.delta)
    choose_space(data, changed.representation, keeps_symmetry(changed.estimator(data), data))


def _summary(
    problem: Problem, over: str, samplers: list[str], rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The result with its exponents, and the figure."""
    exponents, key = local_exponents(rows, over), _measured(over)
    mine = {name: [row for row in rows if row["sampler"] == name] for name in samplers}
    curves = {name: ([row[over] for row in found], [row[key] for row in found]) for name, found in mine.items()}
    dashed = []
    for column in ("girsanov", "certified"):
        chosen = [row for row in mine[samplers[0]] if row.get(column) is not None]
        if chosen:
            dashed.append(f"{column}, {samplers[0]}")
            curves[dashed[-1]] = ([row[over] for row in chosen], [row[column] for row in chosen])
    result: dict[str, Any] = {"data": problem.data, "exponents": exponents}
    notes = ["local exponent: slope of log value between neighbouring points"]
    notes += calls_notes(problem if over != "sigma" else replace(problem, score_noise=1.0), samplers)
    needed = [row["constant_needed"] for row in rows if row.get("paper_form")]
    if needed:
        result["smallest_constant_of_thm1_form"] = max(needed)
        notes.append("paper_form: Theorem 1 from memory, unverified, with universal constant 1")
    picture = figures.curves_figure(curves, over, key, title=problem.data, dashed=dashed)
    return {**result, "rows": rows, "notes": notes}, {"scan": picture}


def _measured(over: str) -> str:
    return "calls" if over == "eps" else "KL"


def _kept(
    folder: RunFolder | None, problem: Problem, over: str, value: float, name: str, bounds: bool, h: float | None
) -> dict[str, Any]:
    """The row, from the folder where an earlier run left it."""
    file = f"rows/{name}-{over}-{value:.12g}.json"
    row = folder.read_json(file) if folder is not None else None
    if row is None:
        row = (
            _eps_row(problem, value, name)
            if over == "eps"
            else _row(*_varied(problem, over, value, h), over, value, name, bounds)
        )
        if folder is not None:
            folder.write_json(file, row)
    return row


def _varied(problem: Problem, over: str, value: float, h: float | None) -> tuple[Problem, dict[str, Any]]:
    """The problem at that value, and the keys of the data that it changes."""
    keys: dict[str, Any] = {}
    if over in ("d", "S"):
        keys = {over: int(value)}
    elif over == "sigma":
        problem = replace(problem, score_noise=value)
        if value < 0:
            raise InputError(f"--values for --over sigma: a standard deviation is >= 0, got {value:g}")
    elif over == "h":
        h = value
    else:
        changes: dict[str, Any] = {over: int(value) if over == "N" else value}
        problem = replace(problem, **changes)
    if h is not None:
        problem = replace(problem, N=max(1, round((problem.T - problem.delta) / h)), grid="constant", c=None)
    return problem, keys


def _row(changed: Problem, keys: dict[str, Any], over: str, value: float, name: str, bounds: bool) -> dict[str, Any]:
    data = changed.data_law(**keys)
    row, _ = law_row(changed, data, name)
    row = {over: value, **{key: item for key, item in row.items() if key not in LEFT_OUT}}
    sampler = changed.sampler_on(changed.schedule(data, name), name)
    if not bounds or not isinstance(sampler, TimeFrozen):
        return row
    estimator = changed.estimator(data)
    terms = girsanov_terms(data, sampler, estimator, changed.init, changed.representation)  # type: ignore[arg-type]
    row |= {"girsanov": terms.total, "score_term": terms.score}
    if estimator is None and name != "midpoint":
        marginals = Marginals(data, choose_space(data, changed.representation, keeps_symmetry(None, data)))
        row["certified"] = certified_bound(sampler.schedule, marginals, changed.init).total  # type: ignore[arg-type]
    if sampler.schedule.delta > 0:
        form = paper_bound(data.ctmc, sampler.schedule, "thm1", terms.score)
        row["paper_form"] = form.total
        row["constant_needed"] = fit_constant([row["KL"]], [form])
    return row


def _eps_row(problem: Problem, eps: float, name: str) -> dict[str, Any]:
    data = problem.data_law()
    T, (plan,) = plan_steps(data.ctmc, eps, problem.delta, data, samplers=[name], grid=problem.grid)  # type: ignore[arg-type]
    return {
        "eps": eps,
        "sampler": name,
        "T": T,
        "N": plan.N,
        "calls": plan.calls,
        "KL": plan.value,
        "basis": plan.basis,
    }


def local_exponents(rows: list[dict[str, Any]], over: str) -> dict[str, list[float]]:
    """Adds `exponent` to each row (slope from the row before of the same sampler), and gives them by sampler."""
    found: dict[str, list[float]] = {}
    before: dict[str, dict[str, Any]] = {}
    for row in rows:
        last, key = before.get(row["sampler"]), _measured(over)
        row["exponent"] = None
        if last and row[over] > 0 and last[over] > 0 and row[over] != last[over] and row[key] and last[key]:
            row["exponent"] = math.log(row[key] / last[key]) / math.log(row[over] / last[over])
            found.setdefault(row["sampler"], []).append(row["exponent"])
        before[row["sampler"]] = row
    return found
