"""plan, schedule, sample, verify and train."""

import csv
import io
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_text

from ctmc_bounds import figures
from ctmc_bounds.cavity_network import NetworkShape, Training, train_cavity_network
from ctmc_bounds.certified import early_stopping_tv
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.identities import verify_identities
from ctmc_bounds.local_error import error_density
from ctmc_bounds.losses import score_entropy
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.output import emit, run_folder
from ctmc_bounds.planner import make_schedule, plan_steps, stopping_for
from ctmc_bounds.samplers import Samples, TimeFrozen, Uniformization, noised
from ctmc_bounds.samplers.base import check_support
from ctmc_bounds.spaces import EnumeratedSpace
from ctmc_bounds.verbs.problem import Problem, check_samplers, law_on

log = logging.getLogger(__name__)


def plan(
    data: str | None, S: int | None, d: int | None, eps: float, delta: float | None, tv: float | None, T: float | None,
    by: Any, samplers: list[str], grid: Any, out: str | None, as_json: bool, device: str,
) -> None:  # fmt: skip
    """Steps and calls for a target error."""
    check_samplers(samplers)
    for name, value in (("S", S), ("d", d)):
        if data is not None and value is not None:
            raise InputError(f"--{name} {value} has no effect beside --data {data}; leave one of them out")
    if data is None and (S is None or d is None):
        raise InputError("plan needs --data, or --S and --d to plan for every law")
    if (delta is None) == (tv is None):
        raise InputError(
            f"--delta {delta}, --tv {tv}: give one of them (tv: the distance that early stopping may cost)"
        )
    law = None if data is None else law_on(data, device)
    ctmc = law.ctmc if law is not None else UniformCTMC(S or 0, d or 0)
    stop = stopping_for(ctmc, tv) if delta is None and tv is not None else float(delta or 0)
    settings = {"data": data, "S": S, "d": d, "eps": eps, "delta": stop, "T": T, "by": by, "samplers": samplers}
    with run_folder("plan", settings | {"grid": grid}, out) as folder:
        start, plans = plan_steps(ctmc, eps, stop, law, by, samplers, grid, T)
        rows = [asdict(item) for item in plans]
        there = {row["sampler"]: {"": row["calls"]} for row in rows if row["calls"] is not None}
        notes = ["calls: expected network calls per sample; half of eps is for the initialisation where T was chosen"]
        early = early_stopping_tv(ctmc, stop)["stay"]
        result = {"eps": eps, "T": start, "delta": stop, "tv_early_stopping_bound": early, "rows": rows, "notes": notes}
        title = f"KL <= {eps:g}"
        pictures = {"plan": figures.bars_figure(there, "network calls per sample", title)} if there else {}
        emit("plan", result, pictures, folder, as_json)


def schedule(problem: Problem, optimal: bool, out: str | None, as_json: bool) -> None:
    """The noise levels of a grid, and what each family would cost with as many intervals."""
    with run_folder("schedule", problem.settings() | {"optimal": optimal}, out) as folder:
        data = problem.data_law()
        check_support(data, problem.delta)
        marginals = Marginals(data)
        chosen = make_schedule("optimal", problem.T, problem.delta, problem.N, marginals) if optimal else (
            problem.schedule(data))  # fmt: skip
        families: list[Any] = ["constant", *(["exp_const"] if problem.delta > 0 else []), "optimal"]
        grids = {name: make_schedule(name, problem.T, problem.delta, chosen.N, marginals) for name in families}
        cost = {name: TimeFrozen(grid).law(data, init=problem.init).kl for name, grid in grids.items()}  # type: ignore[arg-type]
        rows = [{"k": k, "t": t, "u": problem.T - t, "h": h, "c(t)": error_density(marginals, t)}
                for k, (t, h) in enumerate(chosen.intervals)]  # fmt: skip
        curves = {
            name: ([t for t, _ in grid.intervals], [h for _, h in grid.intervals]) for name, grid in grids.items()
        }
        levels = np.geomspace(max(problem.delta, 1e-3 * min(1.0, problem.T)), problem.T, 200)
        density = (levels.tolist(), [error_density(marginals, float(t)) for t in levels])
        notes = ["optimal: h proportional to c(t)^(-1/3); c(t) is the local error density (ours)"]
        result = {"data": problem.data, "grid": chosen.name, "N": chosen.N, "kl_of_paper_sampler": cost, "rows": rows,
                  "notes": notes}  # fmt: skip
        emit("schedule", result, {"schedule": figures.schedule_figure(curves, density)}, folder, as_json)


def sample(problem: Problem, n: int, out: str | None, as_json: bool) -> None:
    """Draws of a sampler, into a run folder or only a file of tokens."""
    file = _samples_file(out)
    with run_folder("sample", problem.settings() | {"n": n}, None if file else out) as folder:
        data = problem.data_law()
        found, name = _drawn(problem, data, n)
        tokens = found.tokens.cpu().numpy()
        if file is not None:
            _write_tokens(file, tokens)
        row = {"sampler": name, "n": n, "calls": found.calls, "jumps": found.jumps,
               "evaluations": found.evaluations, **found.notes}  # fmt: skip
        saved = f"written to {file or f'{out}/samples.npy'}"
        notes = [saved if out else "nothing saved: give --out FILE.npy, --out FILE.csv or --out DIR"]
        shares = {str(i): {f"token {c}": float((tokens[:, i] == c).mean()) for c in range(data.S)}
                  for i in range(min(data.d, 16))}  # fmt: skip
        picture = figures.bars_figure(shares, "share", f"{n} draws: tokens by position", log_y=False)
        result = {"data": problem.data, "mean_token": float(tokens.mean()), "rows": [row], "notes": notes}
        emit("sample", result, {"tokens": picture}, folder, as_json,
             lambda path: _write_tokens(path / "samples.npy", tokens))  # fmt: skip


def _samples_file(out: str | None) -> Path | None:
    """The file that `out` names; None where it is a run folder."""
    path = Path(out or "")
    if path.is_dir() or not path.suffix[1:].isalpha():
        return None
    if path.suffix not in (".npy", ".csv"):
        raise InputError(f"--out {out}: give a folder, or the name of a file that ends in .npy or .csv")
    return path


def _drawn(problem: Problem, data: DataLaw, n: int) -> tuple[Samples, str]:
    """The draws, and whose they are."""
    estimator = problem.estimator(data)
    generator = torch.Generator(device=data.device).manual_seed(problem.seed)
    sampler = problem.sampler_on(problem.schedule(data))
    unbounded = estimator is not None and estimator.kind is None
    if unbounded and isinstance(sampler, Uniformization) and sampler.envelope == "analytic":
        log.info("nothing bounds this score: the envelope of exact scores is tried, and checked at every candidate")
    init: Any = problem.init
    if init == "exact":
        init = noised(data.sample(n, generator), data.S, problem.T, generator)
    return sampler.sample(n, data if estimator is None else estimator, generator, init), sampler.name


def _write_tokens(target: Path, tokens: np.ndarray) -> None:
    if target.suffix == ".csv":
        text = io.StringIO()
        csv.writer(text).writerows(tokens.tolist())
        write_text(target, text.getvalue())
        return
    with atomic_path(target) as aside, aside.open("wb") as file:
        np.save(file, tokens, allow_pickle=False)


def verify(problem: Problem, out: str | None, as_json: bool) -> int:
    """Identity checks on a law; 1 if one fails."""
    with run_folder("verify", problem.settings(), out) as folder:
        checks = verify_identities(problem.data_law(), problem.T, problem.delta, problem.N, problem.seed)
        rows = [{"check": c.name, "statement": c.statement, "measured": c.measured, "allowed": c.allowed,
                 "holds": "yes" if c.holds else "NO"} for c in checks]  # fmt: skip
        failed = [c.name for c in checks if not c.holds]
        shown = {
            c.name: {"measured (no bar: holds with slack)": max(c.measured, 0.0), "allowed": c.allowed} for c in checks
        }
        result = {"data": problem.data, "checks": len(checks), "failed": failed, "rows": rows}
        picture = figures.bars_figure(shown, "deviation", problem.data)
        emit("verify", result, {"verify": picture}, folder, as_json)
    return int(bool(failed))


def train(data: str, width: int, layers: int, training: Training, out: str | None, device: str, as_json: bool) -> None:
    """Train a cavity network on a law; its score entropy at three noise levels."""
    settings = {"data": data, "width": width, "layers": layers, **asdict(training)}
    law = law_on(data, device)
    shape = NetworkShape(law.S, law.d, width, layers)
    with run_folder("train", settings, out, default=True) as folder:
        assert folder is not None

        def report(step: int, loss: float) -> None:
            folder.metrics.rewind(step - 1)  # a killed run may have logged this step before its checkpoint
            folder.metrics.write(step, loss=loss)
            log.info("step %d of %d: loss %.4f", step, training.steps, loss)

        network = train_cavity_network(law, shape, training, folder.path / "network.safetensors", report=report)
        rows: list[dict[str, Any]] = []
        if law.S**law.d <= 2**14:
            marginals = Marginals(law, EnumeratedSpace(law.S, law.d, law.device))
            rows = [{"t": t, "score_entropy": score_entropy(marginals, t, network)} for t in (training.delta, 0.1, 1.0)]
        curve = folder.metrics.read()
        losses = ([row["step"] for row in curve], [row["loss"] for row in curve])
        picture = figures.curves_figure(
            {"training loss": losses}, "step", "cross-entropy of the posterior", log_x=False, log_y=False
        )
        notes = [f"use it with --network {folder.path}"]
        emit("train", {"data": data, "rows": rows, "notes": notes}, {"loss": picture}, folder, as_json)
