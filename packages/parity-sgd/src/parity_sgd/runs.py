"""What the commands do: runs with folders, checkpoints, tables on stdout and figures."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from shared_core.device import resolve_device
from shared_core.errors import InputError
from shared_core.files import atomic_path, jsonable
from shared_core.logging import progress
from shared_core.run_folder import RunFolder
from torch import Tensor

from parity_sgd import figures
from parity_sgd.ablation import ablate, check_studies
from parity_sgd.accuracy import exact_accuracy
from parity_sgd.checks import check_seed
from parity_sgd.network import random_weights
from parity_sgd.neurons import default_width, is_good, predict_outcome, success_probability
from parity_sgd.parity import SparseParity, stream_generator
from parity_sgd.population import good_and_bad, population_path
from parity_sgd.scaling import (
    end_to_end_batch,
    fit_exponent,
    per_step_batch,
    smallest_batches,
    sufficient_batches,
)
from parity_sgd.training import SignSGD, TrainedRun, Trainer, finish

PACKAGE = "parity-sgd"
log = logging.getLogger(__name__)


def print_table(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Rows on stdout: aligned columns, or JSON."""
    if as_json:
        print(json.dumps(jsonable(rows), indent=2))
    elif rows:
        print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def check_seeds(seed: int, seeds: int) -> list[int]:
    """`seeds` consecutive seeds from `seed`.

    Raises:
        InputError: if there are none, or one is out of range.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    return [check_seed(seed + offset) for offset in range(seeds)]


def run_training(
    task: SparseParity, settings: SignSGD, seeds: Sequence[int], *, out: str | None, log_every: int | None
) -> list[TrainedRun]:
    """Train every seed into a run folder; the same call goes on where an interrupted one stopped.

    The folder gets metrics.jsonl, checkpoint.safetensors (all seeds), seed-N.safetensors (W, a, W0), result.json and
    figures.

    Raises:
        InputError: if the folder holds another run, or log_every < 1.
    """
    every = max(1, settings.steps // 30) if log_every is None else log_every
    if every < 1:
        raise InputError(f"log-every must be at least 1, got {every}")
    settings.warn(task)
    law = {"d": task.d, "support": task.support, "noise": task.noise, "device": task.device.type}
    path = Path(out or f"runs/{PACKAGE}-train-d{task.d}-k{task.k}-seed{seeds[0]}")
    record = {"verb": "train", **law, **asdict(settings), "seeds": list(seeds), "log_every": every}
    with RunFolder(path, package=PACKAGE, settings=record) as folder:
        trainers = [Trainer(task, settings, seed) for seed in seeds]
        _resume(folder, trainers)
        _train_all(folder, trainers, every)
        history = pd.DataFrame(folder.metrics.read())
        runs = [finish(trainer, history[history["seed"] == trainer.seed]) for trainer in trainers]
        for run in runs:
            with atomic_path(folder.path / f"seed-{run.seed}.safetensors") as aside:
                metadata = {PACKAGE: json.dumps({"support": task.support})}  # one entry: their order is not fixed
                tensors = {"W": run.W, "a": run.a, "W0": run.W0}
                save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, aside, metadata)
        folder.save_figure("accuracy", figures.accuracy_figure({f"k = {task.k}, d = {task.d}": history}))
        good = is_good(runs[0].W0, runs[0].a, task.support).tolist()
        folder.save_figure("weights", figures.weights_figure(runs[0].W, good, task.support))
        folder.write_json(
            "result.json", {"task": law, "settings": asdict(settings), "runs": [summary(r) for r in runs]}
        )
        log.info("wrote %s", path)
    return runs


def summary(run: TrainedRun) -> dict[str, Any]:
    """One line about a finished run."""
    return {
        "seed": run.seed,
        "accuracy": run.accuracy.value,
        "low": run.accuracy.low,
        "high": run.accuracy.high,
        "method": run.accuracy.method,
        "predicted": run.predicted.accuracy,
        "margin": run.accuracy.margin,
        "recovered": " ".join(map(str, run.recovered.support)),
        "gap": run.recovered.gap,
    }


def _resume(folder: RunFolder, trainers: Sequence[Trainer]) -> None:
    path = folder.path / "checkpoint.safetensors"
    if not path.exists():
        folder.metrics.rewind(0)
        return
    state = load_file(path)
    for trainer in trainers:
        prefix = f"{trainer.seed}."
        trainer.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    folder.metrics.rewind(trainers[0].step)
    log.info("going on at step %d", trainers[0].step)


def _train_all(folder: RunFolder, trainers: Sequence[Trainer], every: int) -> None:
    steps = trainers[0].settings.steps
    if trainers[0].step == 0 and not folder.metrics.read():
        for trainer in trainers:
            folder.metrics.write(0, seed=trainer.seed, **trainer.metrics())
    # A GPU is shared by no two runs at a time.
    workers = torch.get_num_threads() if trainers[0].task.device.type == "cpu" else 1
    with ThreadPoolExecutor(workers) as pool:
        for target in progress([*range(trainers[0].step + every, steps, every), steps], "training"):
            list(pool.map(lambda trainer, goal=target: trainer.advance(goal - trainer.step), trainers))
            for trainer in trainers:
                folder.metrics.write(trainer.step, seed=trainer.seed, **trainer.metrics())
            with atomic_path(folder.path / "checkpoint.safetensors") as aside:
                save_file(_all_state(trainers), aside)


def _all_state(trainers: Sequence[Trainer]) -> dict[str, Tensor]:
    return {
        f"{trainer.seed}.{name}": value.contiguous().cpu()
        for trainer in trainers
        for name, value in trainer.state_dict().items()
    }


def load_weights(path: str | Path) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """W, a, W0 and the support of a `seed-N.safetensors` file.

    Raises:
        InputError: if it is not such a file.
    """
    from safetensors import safe_open

    if not Path(path).is_file():
        raise InputError(f"{path} is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if PACKAGE not in metadata or not {"W", "a", "W0"} <= set(tensors):
        raise InputError(f"{path} was not written by `{PACKAGE} train` (seed-N.safetensors)")
    return tensors["W"], tensors["a"], tensors["W0"], tuple(json.loads(metadata[PACKAGE])["support"])


def predict_rows(
    task: SparseParity, width: int | None, seeds: Sequence[int], checkpoint: str | None = None
) -> list[dict[str, Any]]:
    """Outcome of training read off initial weights: of random starts, or of a checkpoint's start beside its end."""
    if checkpoint is not None:
        W, a, W0, support = load_weights(checkpoint)
        outcome, end = predict_outcome(W0, a, support), exact_accuracy(W, a, support)
        return [{"start": checkpoint, **asdict(outcome), "trained_accuracy": end.value, "method": end.method}]
    width = default_width(task.k) if width is None else width
    if width < 1:
        raise InputError(f"width must be at least 1, got {width}")
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        W0, a = random_weights(task.d, width, stream_generator(seed, "weights"))
        rows.append({"start": f"seed {seed}", **asdict(predict_outcome(W0, a, task.support))})
    log.info("a random start of width %d ends perfect with probability %.3f", width, success_probability(task.k, width))
    return rows


def run_scaling(
    kind: str,
    k: int | None,
    ds: Sequence[int],
    *,
    seeds: int,
    seed: int,
    width: int | None,
    learning_rate: float,
    out: str | None,
) -> list[dict[str, Any]]:
    """Per-step or end-to-end sample complexity with its exponent; a folder gets the table and the figure.

    Raises:
        InputError: for fewer than two sizes, a size below k, or fewer than two seeds.
    """
    if k is None:
        raise InputError("give --k, the size of the parity")
    if len(set(ds)) < 2 or min(ds) < k or k < 1:
        raise InputError(f"ds must be at least two different dimensions, none below k = {k}; got {list(ds)}")
    check_seeds(seed, seeds)
    if seeds < 2:
        raise InputError(f"seeds must be at least 2 for an interval, got {seeds}")
    settings = {"verb": "scaling", "kind": kind, "k": k, "ds": list(ds), "seeds": seeds, "seed": seed}
    settings |= {"width": width, "learning_rate": learning_rate}
    path = Path(out or f"runs/{PACKAGE}-scaling-{kind}-k{k}-seed{seed}")
    with RunFolder(path, package=PACKAGE, settings=settings) as folder:
        if kind == "per-step":
            neurons = width or 8
            table = per_step_batch(k, ds, seeds=seeds, seed=seed, neurons=neurons)
            rows = table.groupby("d", as_index=False).agg(
                samples=("samples", "median"),
                low=("samples", "min"),
                high=("samples", "max"),
                formula=("formula", "first"),
            )
            rows["ratio"] = rows["samples"] / rows["formula"]
        else:
            neurons = width or default_width(k)
            needed = -(-3 * seeds // 4)
            cells = end_to_end_batch(
                k, ds, width=neurons, seeds=seeds, needed=needed, seed=seed, learning_rate=learning_rate
            )
            table, rows = smallest_batches(cells), sufficient_batches(cells)
        exponent = fit_exponent(table, k, neurons)
        result = {"rows": _records(rows), "exponent": asdict(exponent)}
        label = "samples for one right step" if kind == "per-step" else "samples T B of a successful run"
        folder.save_figure(
            "scaling", figures.scaling_figure({k: (table, exponent, neurons)}, label, kind == "per-step")
        )
        with atomic_path(folder.path / "table.csv") as aside:
            table.to_csv(aside, index=False)
        folder.write_json("result.json", result)
        log.info(
            "exponent in d: %.2f [%.2f, %.2f]; divided by ln(m d): %.2f [%.2f, %.2f]; exact formula: %.2f; theory: %d "
            "up to logarithms; wrote %s", *list(asdict(exponent).values()), k - 1, path,
        )  # fmt: skip
    return [{**row, "exponent": exponent.slope} for row in _records(rows)]


def run_ablation(
    task: SparseParity, settings: SignSGD, studies: Sequence[str], seeds: Sequence[int], out: str | None
) -> list[dict[str, Any]]:
    """Ablations into a folder: one row a variant with mean, lowest and highest accuracy over seeds."""
    check_studies(studies)
    record = {"verb": "ablate", "d": task.d, "support": task.support, "noise": task.noise, "device": task.device.type}
    record |= {**asdict(settings), "studies": list(studies), "seeds": list(seeds)}
    path = Path(out or f"runs/{PACKAGE}-ablate-d{task.d}-k{task.k}-seed{seeds[0]}")
    with RunFolder(path, package=PACKAGE, settings=record) as folder:
        table = ablate(task, settings, studies, seeds)
        folder.save_figure("ablations", figures.ablation_figure(table))
        rows = table.groupby(["study", "variant"], sort=False, as_index=False).agg(
            accuracy=("accuracy", "mean"), low=("accuracy", "min"), high=("accuracy", "max"), note=("note", "first")
        )
        folder.write_json("result.json", _records(rows))
        log.info("wrote %s", path)
    return _records(rows)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def neuron_path(task: SparseParity, settings: SignSGD, seed: int) -> tuple[Tensor, Trainer]:
    """All weights after 0..T steps of one run, (T + 1, m, d)."""
    trainer = Trainer(task, settings, seed)
    path = [trainer.W.cpu().clone()]
    for _ in progress(range(settings.steps), "neurons"):
        trainer.advance(1)
        path.append(trainer.W.cpu().clone())
    return torch.stack(path), trainer


def run_neurons(task: SparseParity, settings: SignSGD, seed: int, out: str | None) -> list[dict[str, Any]]:
    """One good and one bad neuron beside their closed-form path, step by step."""
    settings.warn(task)
    record = {"verb": "neurons", "d": task.d, "support": task.support, "noise": task.noise, "device": task.device.type}
    record |= {**asdict(settings), "seed": seed}
    where = Path(out or f"runs/{PACKAGE}-neurons-d{task.d}-k{task.k}-seed{seed}")
    with RunFolder(where, package=PACKAGE, settings=record) as folder:
        path, trainer = neuron_path(task, settings, seed)
        theory = population_path(
            task.k,
            steps=settings.steps,
            rho=settings.rho,
            learning_rate=settings.learning_rate,
            decay=settings.decay,
            noise=task.noise,
        )
        good = is_good(trainer.W0, trainer.a, task.support).cpu()
        chosen, support = good_and_bad(good), list(task.support)
        if min(chosen) < 0:
            raise InputError(
                f"this start has no {'good' if chosen[0] < 0 else 'bad'} neuron; raise width or change seed"
            )
        panels = [(f"k = {task.k}, d = {task.d}", path, chosen, support, theory)]
        folder.save_figure("neurons", figures.trajectory_figure(panels))
        folder.save_figure("weights", figures.weights_figure(path[-1], good.tolist(), support))
        sizes = path.abs()
        off = [j for j in range(task.d) if j not in task.support] or support
        rows = [
            {
                "step": t,
                "good_feature": sizes[t, chosen[0], support].mean().item(),
                "good_closed_form": theory.good_feature[t].item(),
                "bad_feature": sizes[t, chosen[1], support].mean().item(),
                "bad_closed_form": theory.bad_feature[t].item(),
                "noise_max": sizes[t][list(chosen)][:, off].max().item(),
                "noise_closed_form": theory.noise[t].item(),
            }
            for t in range(settings.steps + 1)
        ]
        folder.write_json("result.json", rows)
        log.info("wrote %s", where)
    return rows


def make_task(
    d: int | None, k: int | None, support: Sequence[int] | None, noise: float, seed: int, device: str
) -> SparseParity:
    """The task that a command's options describe.

    Raises:
        InputError: if they describe none.
    """
    if d is None:
        raise InputError("give --d, the dimension")
    return SparseParity(d, support, k=k, noise=noise, seed=seed, device=resolve_device(device))
