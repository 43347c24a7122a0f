"""Runs in folders: training of Gamma or of a module with exact resume, and the comparison with ridge over N and M."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shared_core.device import resolve_device
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path
from shared_core.logging import progress
from shared_core.run_folder import RunFolder, read_config
from torch import Tensor, nn

from icl_linear import figures
from icl_linear.attention_risk import excess_risk, minimal_risk, risk
from icl_linear.checks import check_count, check_length
from icl_linear.one_pass_sgd import run_sgd
from icl_linear.output import PACKAGE, emit
from icl_linear.plan import step_for
from icl_linear.problem import Problem
from icl_linear.ridge import bayes_risk
from icl_linear.sampling import Statistics, sample_statistics, sample_tasks
from icl_linear.schedule import make_schedule
from icl_linear.sgd_recursion import expected_sgd, max_stable_step
from icl_linear.spectra import make_problem
from icl_linear.training import (
    Training,
    as_gamma,
    evaluate_module,
    load_checkpoint,
    make_model,
    make_optimizer,
    model_settings,
    save_checkpoint,
    train_module,
)

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"


def train_gamma(
    problem: Problem, training: Training, runs: int, every: int, folder: RunFolder, device: torch.device
) -> list[dict[str, Any]]:
    """The paper's one-pass SGD on Gamma, `runs` at once, beside its exact expectation; resumes at a checkpoint.

    Tasks between checkpoints come from a generator seeded by the seed and the step: a resumed run is the same run.
    """
    schedule = training.schedule_()
    sizes = torch.tensor(schedule.step_sizes(), device=device)
    path, gamma, done = folder.path / CHECKPOINT, torch.zeros(runs, problem.d, problem.d, device=device), 0
    if path.exists():
        stored = load_file(path)
        gamma, done = stored["gamma"].to(device), int(stored["step"])
        log.info("resuming %s at step %d of %d", folder.path, done, training.steps)
    folder.metrics.rewind(done)
    problem = problem.to(device)
    gamma = problem.in_eigenbasis(gamma)
    for start in progress(range(done, training.steps, every), "pretraining"):
        end = min(start + every, training.steps)
        count = (end - start) * training.batch
        generator = torch.Generator(device).manual_seed(training.seed * 1_000_003 + start)
        tasks = _draw(problem, training, runs, count, generator)
        gamma = run_sgd(gamma, tasks, sizes[start:end], training.batch)
        excess = [float(excess_risk(problem, problem.to_data(one).double(), training.context)) for one in gamma]
        if not all(map(math.isfinite, excess)):
            raise RunError(f"Gamma is no longer finite at step {end}: lower the step size ({training.lr:g})")
        mean = sum(excess) / runs
        spread = float(torch.tensor(excess).std() / math.sqrt(runs)) if runs > 1 else None
        folder.metrics.write(end, excess=mean, standard_error=spread)
        with atomic_path(path) as aside:
            save_file({"gamma": problem.to_data(gamma).cpu().contiguous(), "step": torch.tensor(end)}, aside)
    return folder.metrics.read()


def _draw(problem: Problem, training: Training, runs: int, count: int, generator: torch.Generator) -> Statistics:
    if training.pool is None and training.design == "gaussian":
        return sample_statistics(problem, training.context, (runs, count), generator)
    parts = []
    for run in range(runs):
        betas = None
        if training.pool is not None:
            pool = torch.Generator(generator.device).manual_seed(training.seed * 1_000_003 + run + 2**40)
            shape = (training.pool, problem.d)
            betas = problem.psi * torch.randn(shape, generator=pool, device=generator.device)
        for start in range(0, count, 1000):
            size = min(1000, count - start)
            drawn = sample_tasks(
                problem, training.context, size, generator, design=training.design, dtype=torch.float32, betas=betas
            )
            parts.append(drawn.statistics(problem))
    v, x, y = (torch.cat([getattr(part, name) for part in parts]) for name in ("v", "x", "y"))
    return Statistics(v.view(runs, count, -1), x.view(runs, count, -1), y.view(runs, count))


def train_run(
    problem: Problem,
    problem_settings: dict[str, Any],
    training: Training,
    runs: int,
    every: int,
    lengths: list[int],
    prompts: int,
    out: str,
    device: str,
    as_json: bool,
) -> None:
    """Train into a run folder, then judge the model at every test length beside the optimum and ridge."""
    resolved = resolve_device(device)
    lengths = [int(check_length("--test", length)) for length in lengths] or [training.context]
    _check_training(training, runs, lengths)
    if training.model == "gamma":
        step_for(problem, training.context, training.lr, training.batch)
    settings: dict[str, Any] = {"verb": "train", "problem": problem_settings, "training": model_settings(training)}
    settings |= {"runs": runs, "every": check_count("--every", every), "test": lengths, "prompts": prompts}
    with RunFolder(Path(out), package=PACKAGE, settings=settings) as folder:
        if training.model == "gamma":
            history = train_gamma(problem, training, runs, every, folder, resolved)
            gamma = load_file(folder.path / CHECKPOINT)["gamma"].double()
            with atomic_path(folder.path / "model.safetensors") as aside:
                save_file({"gamma": gamma}, aside)
            rows = _gamma_rows(problem, gamma, training.context, lengths)
            figure = _gamma_figure(problem, training, runs, history)
        else:
            model = _train_module(problem, training, every, folder, resolved)
            save_checkpoint(folder.path / "model.safetensors", model, step=training.steps)
            rows = _module_rows(model, problem, training, lengths, prompts, resolved)
            losses = {"training loss": [2 * row["loss"] for row in folder.metrics.read()]}
            figure = figures.curves_figure(
                [row["step"] for row in folder.metrics.read()], losses, x="step", y="mean squared error"
            )
            figure.axes[0].axhline(float(minimal_risk(problem, training.context)), color="black", linestyle=":")
        by_length = {key: [row[key] - problem.sigma**2 for row in rows] for key in ("model", "best_attention", "ridge")}
        lengths_figure = figures.curves_figure(
            lengths, by_length, dashed=["ridge"], x="examples at test, M", y="risk over the noise"
        )
        result = {"model": training.model, "context_N": training.context, "steps": training.steps, "rows": rows}
        shown = {"training": figure, "lengths": lengths_figure}
        emit("train", result, settings=settings, figures=shown, out=None, as_json=as_json, folder=folder)


def _check_training(training: Training, runs: int, lengths: list[int]) -> None:
    check_count("--runs", runs)
    if training.model != "gamma" and runs != 1:
        raise InputError(f"--runs {runs} is for --model gamma; give each other model a run and a --seed of its own")
    holds = max(training.context, training.max_context or 0)
    if training.model == "gpt2" and max(lengths) > holds:
        raise InputError(f"--test {max(lengths)} exceeds what gpt2 holds, {holds} examples: raise --max-context")


def _train_module(
    problem: Problem, training: Training, every: int, folder: RunFolder, device: torch.device
) -> nn.Module:
    model = make_model(problem.d, training).to(device)
    optimizer = make_optimizer(model, training)
    path, done = folder.path / CHECKPOINT, 0
    if path.exists():
        done = load_checkpoint(path, model, optimizer)
        log.info("resuming %s at step %d of %d", folder.path, done, training.steps)
    folder.metrics.rewind(done)

    def after(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, loss: float) -> None:
        folder.metrics.write(step, loss=loss)
        save_checkpoint(path, model, optimizer, step)
        log.info("step %d of %d: mean squared error %.4f", step, training.steps, 2 * loss)

    return train_module(model, optimizer, problem, training, device, start=done, every=every, after=after)


def _gamma_rows(problem: Problem, gamma: Tensor, context: int, lengths: list[int]) -> list[dict[str, Any]]:
    rows = []
    for m in lengths:
        values = torch.stack([risk(problem, one, m) for one in gamma])
        error = float(values.std() / math.sqrt(len(gamma))) if len(gamma) > 1 else 0.0
        rows.append(_row(problem, context, m, float(values.mean()), error))
    return rows


def _module_rows(
    model: nn.Module, problem: Problem, training: Training, lengths: list[int], prompts: int, device: torch.device
) -> list[dict[str, Any]]:
    gamma = as_gamma(model)
    if gamma is not None:
        return _gamma_rows(problem, gamma[None], training.context, lengths)
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


def _gamma_figure(problem: Problem, training: Training, runs: int, history: list[dict[str, Any]]) -> Any:
    steps = [row["step"] for row in history]
    points = None
    curves = {}
    if training.pool is None and training.design == "gaussian":
        run = expected_sgd(problem, training.context, training.schedule_(), batch=training.batch, record=steps)
        curves["exact expectation"] = run.excess.tolist()
    if runs > 1:
        half = [1.96 * row["standard_error"] for row in history]
        points = {f"mean of {runs} runs, 95 %": (steps, [row["excess"] for row in history], half)}
    else:
        curves["this run"] = [row["excess"] for row in history]
    return figures.curves_figure(steps, curves, points=points, x="step")


def default_rate(problem: Problem, model: str, context: int, batch: int) -> float:
    """gamma: half the largest stable step; others: what trains them well with Adam."""
    if model == "gamma":
        return max_stable_step(problem, context, batch) / 2
    return 0.001 if model == "gpt2" else 0.003


def compare_lengths(
    problem: Problem,
    trained: list[int],
    tested: list[int],
    tasks: list[int],
    draws: int,
    seed: int,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """Attention over ridge for every N and M, and SGD-pretrained models with T tasks at every M, all exact."""
    trained = [int(check_length("--context", n)) for n in trained]
    tested = [int(check_length("--test", m)) for m in tested]
    noise = problem.sigma**2
    ridge = [bayes_risk(problem, m, draws, seed).mean - noise for m in tested]
    if min(ridge) <= 0:
        raise InputError("without noise (sigma = 0) ridge is exact from M = d on and there is no ratio; give --sigma")
    rows, ratios, notes = [], [], []
    for n in trained:
        values = [float(risk(problem, problem.gamma_star(n), m)) - noise for m in tested]
        ratios.append([value / base for value, base in zip(values, ridge, strict=True)])
        for m, value, base in zip(tested, values, ridge, strict=True):
            worse = value > problem.zero_risk - noise
            rows.append({"context_N": n, "test_M": m, "tasks": "optimum", "attention": value, "ridge": base,
                         "ratio": value / base, "worse_than_zero": worse})  # fmt: skip
            if worse:
                notes.append(f"N = {n} at M = {m} is worse than predicting 0")
    shown = {"ratio": figures.heat_map_figure(trained, tested, ratios, title="risk over the noise: attention / ridge")}
    if tasks:
        n = trained[0]
        gamma0 = max_stable_step(problem, n) / 2
        curves = {}
        for count in tasks:
            run = expected_sgd(problem, n, make_schedule("geometric", gamma0, check_count("--tasks", count, 2)))
            values = [float(run.excess_at(m)[-1]) for m in tested]
            curves[f"T = {count} tasks"] = values
            rows += [{"context_N": n, "test_M": m, "tasks": str(count), "attention": value, "ridge": base,
                      "ratio": value / base, "worse_than_zero": value > problem.zero_risk - noise}
                     for m, value, base in zip(tested, values, ridge, strict=True)]  # fmt: skip
        curves["optimum of N"] = [float(risk(problem, problem.gamma_star(n), m)) - noise for m in tested]
        curves["ridge (Bayes)"] = ridge
        shown["tasks"] = figures.curves_figure(
            tested, curves, dashed=["ridge (Bayes)"], x="examples at test, M", y="risk over the noise", title=f"N = {n}"
        )
    result = {"d": problem.d, "risk_of_zero_over_noise": problem.zero_risk - noise, "rows": rows, "notes": notes}
    emit("compare", result, settings=settings, figures=shown, out=out, as_json=as_json)


def compare_run(
    path: str,
    tested: list[int] | None,
    prompts: int,
    device: str,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """A trained run at other test lengths, beside the optimum of its length, the best attention and ridge.

    Raises:
        InputError: if the folder holds no finished training.
    """
    config = read_config(Path(path) / "config.yaml")
    stored = config.get("settings", {})
    if stored.get("verb") != "train" or not (Path(path) / "model.safetensors").exists():
        raise InputError(f"--run {path} holds no finished training")
    problem, training = make_problem(**stored["problem"]), Training(**stored["training"])
    lengths = [int(check_length("--test", m)) for m in tested] if tested else stored["test"]
    resolved = resolve_device(device)
    _check_training(training, stored["runs"], lengths)
    if training.model == "gamma":
        gamma = load_file(Path(path) / "model.safetensors")["gamma"]
        rows = _gamma_rows(problem, gamma, training.context, lengths)
    else:
        model = make_model(problem.d, training)
        load_checkpoint(Path(path) / "model.safetensors", model)
        rows = _module_rows(model, problem, training, lengths, prompts, resolved)
    noise = problem.sigma**2
    rows = [row | {"ratio": (row["model"] - noise) / max(row["ridge"] - noise, 1e-300)} for row in rows]
    curves = {key: [row[key] - noise for row in rows] for key in ("model", "optimum_of_N", "best_attention", "ridge")}
    figure = figures.curves_figure(lengths, curves, dashed=["ridge"], x="examples at test, M", y="risk over the noise")
    result = {"model": training.model, "context_N": training.context, "rows": rows}
    emit("compare", result, settings=settings, figures={"lengths": figure}, out=out, as_json=as_json)
