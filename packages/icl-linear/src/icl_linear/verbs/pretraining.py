"""`train`: Gamma by the paper's SGD, or a module by autograd, in a run folder that goes on where it was interrupted."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from safetensors.torch import save_file
from shared_core.device import resolve_device
from shared_core.errors import RunError
from shared_core.files import atomic_path
from shared_core.logging import MetricsLog, progress
from shared_core.run_folder import RunFolder, run_path
from torch import Tensor, nn

from icl_linear import figures
from icl_linear.attention_risk import excess_risk, minimal_risk
from icl_linear.checks import check_count, check_length, check_shape
from icl_linear.expected_run import expected_sgd
from icl_linear.one_pass_sgd import run_sgd
from icl_linear.output import PACKAGE, emit
from icl_linear.problem import Problem
from icl_linear.sampling import Statistics, sample_statistics, sample_tasks
from icl_linear.stable_step import max_stable_step, step_for
from icl_linear.training import (
    Training,
    accelerator_on,
    load_checkpoint,
    make_model,
    make_optimizer,
    mix,
    model_settings,
    read_tensors,
    save_checkpoint,
    train_module,
)
from icl_linear.verbs.judging import check_training, gamma_rows, module_rows

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"
DRAWN_AT_ONCE = 20_000_000  # numbers


def train_gamma(
    problem: Problem, training: Training, runs: int, checkpoint_every: int, folder: RunFolder, device: torch.device
) -> tuple[Float[Tensor, "runs d d"], list[dict[str, Any]]]:
    """The paper's one-pass SGD on Gamma, `runs` at once, beside its exact expectation; resumes at a checkpoint.

    Tasks between checkpoints come from a generator seeded by the seed and the step: a resumed run is the same run. The
    checkpoint stays in the eigenbasis of H, as a turn to and fro would cost its last bits; what is returned is in the
    coordinates of the data.
    """
    sizes = torch.tensor(training.schedule_().step_sizes(), device=device)
    path, gamma, done = folder.path / CHECKPOINT, torch.zeros(runs, problem.d, problem.d, device=device), 0
    if path.exists():
        stored = read_tensors(path)
        gamma, done = (
            check_shape(str(path), stored["in_eigenbasis"], tuple(gamma.shape)).to(device),
            int(stored["step"]),
        )
        log.info("resuming %s at step %d of %d", folder.path, done, training.steps)
    folder.metrics.rewind(done)
    problem = problem.to(device)
    for start in progress(range(done, training.steps, checkpoint_every), "pretraining"):
        end = min(start + checkpoint_every, training.steps)
        generator = torch.Generator(device).manual_seed(mix(training.seed, start))
        # so many steps at a time that the tasks drawn for them fit into memory
        part = max(1, DRAWN_AT_ONCE // (runs * training.batch_size * problem.d))
        for first in range(start, end, part):
            rates = sizes[first : min(first + part, end)]
            tasks = _draw(problem, training, runs, len(rates) * training.batch_size, generator)
            gamma = run_sgd(gamma, tasks, rates, training.batch_size)
        excess = excess_risk(problem, problem.to_data(gamma.double()), training.context)
        if not bool(torch.isfinite(excess).all()):
            raise RunError(
                f"Gamma is no longer finite at step {end}: lower the learning rate ({training.learning_rate:g})"
            )
        spread = float(excess.std() / math.sqrt(runs)) if runs > 1 else None
        folder.metrics.write(end, excess=float(excess.mean()), standard_error=spread)
        with atomic_path(path) as aside:
            save_file({"in_eigenbasis": gamma.cpu().contiguous(), "step": torch.tensor(end)}, aside)
    return problem.to_data(gamma.double()).cpu(), folder.metrics.read()


def _draw(problem: Problem, training: Training, runs: int, count: int, generator: torch.Generator) -> Statistics:
    if training.pool is None and training.design == "gaussian":
        return sample_statistics(problem, training.context, (runs, count), generator)
    parts = []
    for run in range(runs):
        betas = None
        if training.pool is not None:
            pool = torch.Generator(generator.device).manual_seed(mix(training.seed, 2**40 + run))
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
    checkpoint_every: int,
    lengths: list[int],
    prompts: int,
    out: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Train into a run folder, then judge the model at every test length beside the optimum and ridge.

    Under `accelerate launch` the processes share each batch of a module, and the main one owns the folder; Gamma is the
    work of the main one alone.
    """
    resolved = resolve_device(device)
    lengths = [int(check_length("--test", length)) for length in lengths] or [training.context]
    check_training(training, runs, lengths)
    settings: dict[str, Any] = {"verb": "train", "problem": problem_settings, "training": model_settings(training)}
    settings |= {"runs": runs, "checkpoint_every": check_count("--checkpoint-every", checkpoint_every), "test": lengths}
    settings |= {"prompts": check_count("--prompts", prompts, 2)}
    if training.model == "gamma":
        step_for(problem, training.context, training.learning_rate, training.batch_size)
        if int(os.environ.get("RANK", 0)):
            return
        with RunFolder(out, package=PACKAGE, settings=settings) as folder:
            gamma, history = train_gamma(problem, training, runs, checkpoint_every, folder, resolved)
            with atomic_path(folder.path / "model.safetensors") as aside:
                save_file({"gamma": gamma.contiguous()}, aside)
            rows = gamma_rows(problem, gamma, training.context, lengths)
            figure = _gamma_figure(problem, training, runs, history)
            _finish(folder, problem, training, lengths, rows, figure, as_json)
        return
    accelerator = accelerator_on(resolved)
    if accelerator.is_main_process:
        with RunFolder(out, package=PACKAGE, settings=settings) as folder:
            accelerator.wait_for_everyone()  # now the folder is known to be ours, and its checkpoint may be read
            model = _train_module(problem, training, checkpoint_every, folder.path, folder.metrics, resolved)
            save_checkpoint(folder.path / "model.safetensors", model, step=training.steps)
            rows = module_rows(model, problem, training, lengths, prompts, resolved)
            figure = _loss_figure(problem, training, folder.metrics.read())
            _finish(folder, problem, training, lengths, rows, figure, as_json)
    else:
        accelerator.wait_for_everyone()  # the folder is there now, and is the one that the settings lead to
        path = run_path(out, package=PACKAGE, settings=settings)
        _train_module(problem, training, checkpoint_every, path, None, resolved)
    accelerator.end_training()


def _finish(
    folder: RunFolder,
    problem: Problem,
    training: Training,
    lengths: list[int],
    rows: list[dict[str, Any]],
    figure: Figure,
    as_json: bool,
) -> None:
    names = {"model": training.model, "best_attention": "best attention, N = M", "ridge": "ridge (Bayes)"}
    curves = {shown: [row[key] - problem.sigma**2 for row in rows] for key, shown in names.items()}
    by_length = figures.curves_figure(
        lengths, curves, dashed=["ridge (Bayes)"], x="examples at test, M", y="risk over the noise"
    )
    result = {"model": training.model, "context_N": training.context, "steps": training.steps, "rows": rows}
    shown = {"training": figure} | ({"lengths": by_length} if len(lengths) > 1 else {})
    emit("train", result, settings={}, figures=shown, out=None, as_json=as_json, folder=folder)


def _train_module(
    problem: Problem,
    training: Training,
    checkpoint_every: int,
    folder: Path,
    metrics: MetricsLog | None,
    device: torch.device,
) -> nn.Module:
    model = make_model(problem.d, training).to(device)
    optimizer = make_optimizer(model, training)
    path, done = folder / CHECKPOINT, 0
    if path.exists():
        done = load_checkpoint(path, model, optimizer)
        log.info("resuming %s at step %d of %d", folder, done, training.steps)
    if metrics is not None:
        metrics.rewind(done)

    def after(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, loss: float) -> None:
        assert metrics is not None  # called in the main process only
        metrics.write(step, loss=loss)
        save_checkpoint(path, model, optimizer, step)
        log.info("step %d of %d: mean squared error %.4f", step, training.steps, 2 * loss)

    return train_module(
        model, optimizer, problem, training, device, start=done, checkpoint_every=checkpoint_every, after=after
    )


def _loss_figure(problem: Problem, training: Training, history: list[dict[str, Any]]) -> Figure:
    losses = {"training loss": [2 * row["loss"] for row in history]}
    figure = figures.curves_figure([row["step"] for row in history], losses, x="step", y="mean squared error")
    if training.loss == "query":
        best = float(minimal_risk(problem, training.context))
        figure.axes[0].axhline(best, color="black", linestyle=":", label="best attention, N examples")
        figure.axes[0].legend(fontsize=8)
    return figure


def _gamma_figure(problem: Problem, training: Training, runs: int, history: list[dict[str, Any]]) -> Figure:
    steps = [row["step"] for row in history]
    points = None
    curves = {}
    if training.pool is None and training.design == "gaussian":
        run = expected_sgd(
            problem, training.context, training.schedule_(), batch_size=training.batch_size, record=steps
        )
        curves["exact expectation"] = run.excess.tolist()
    if runs > 1:
        half = [1.96 * row["standard_error"] for row in history]
        points = {f"mean of {runs} runs, 95 %": (steps, [row["excess"] for row in history], half)}
    else:
        curves["this run"] = [row["excess"] for row in history]
    return figures.curves_figure(steps, curves, points=points, x="step")


def default_rate(problem: Problem, model: str, context: int, batch_size: int) -> float:
    """gamma: half the largest stable step; others: what trains them well with Adam."""
    if model == "gamma":
        return max_stable_step(problem, context, batch_size) / 2
    return 0.001 if model == "gpt2" else 0.003
