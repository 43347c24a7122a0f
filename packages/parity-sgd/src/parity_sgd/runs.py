"""Training runs with folders: metrics, checkpoints, figures, and going on after an interruption."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from shared_core.device import resolve_device
from shared_core.errors import InputError
from shared_core.files import atomic_path
from shared_core.logging import progress
from shared_core.run_folder import RunFolder
from torch import Tensor

from parity_sgd import figures
from parity_sgd.checks import check_seed
from parity_sgd.neurons import is_good
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.threads import each_in_threads
from parity_sgd.training import TrainedRun, Trainer, finish, start_together

PACKAGE = "parity-sgd"
log = logging.getLogger(__name__)


def check_runs(seed: int, runs: int) -> list[int]:
    """The seeds of `runs` runs, consecutive from `seed`.

    Raises:
        InputError: if there are none, or one is out of range.
    """
    if runs < 1:
        raise InputError(f"runs must be at least 1, got {runs}")
    return [check_seed(seed + offset) for offset in range(runs)]


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
    law = {"d": task.d, "support": task.support, "label_noise": task.label_noise, "device": task.device.type}
    record = {"verb": "train", **law, **asdict(settings), "seeds": list(seeds), "log_every": every}
    with RunFolder(out, package=PACKAGE, settings=record) as folder:
        trainers = start_together(task, settings, seeds)
        _resume(folder, trainers)
        _train_all(folder, trainers, every)
        history = pd.DataFrame(folder.metrics.read())
        runs = [finish(trainer, history[history["seed"] == trainer.seed]) for trainer in trainers]
        for run in runs:
            with atomic_path(folder.path / f"seed-{run.seed}.safetensors") as aside:
                metadata = {PACKAGE: json.dumps({"support": task.support})}  # one entry: their order is not fixed
                tensors = {"W": run.W, "a": run.a, "W0": run.W0}
                aside.write_bytes(save({name: value.contiguous().cpu() for name, value in tensors.items()}, metadata))
        folder.save_figure("accuracy", figures.accuracy_figure({f"k = {task.k}, d = {task.d}": history}))
        good = is_good(runs[0].W0, runs[0].a, task.support).tolist()
        folder.save_figure("weights", figures.weights_figure(runs[0].W, good, task.support))
        folder.write_json(
            "result.json", {"task": law, "settings": asdict(settings), "runs": [summary(r) for r in runs]}
        )
        log.info("wrote %s", folder.path)
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
        folder.metrics.rewind(-1)  # a kill may have left the first step's rows of some seeds only
        return
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}; remove the folder to begin again") from error
    for trainer in trainers:
        prefix = f"{trainer.seed}."
        trainer.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    folder.metrics.rewind(trainers[0].step)
    log.info("going on at step %d", trainers[0].step)


def _train_all(folder: RunFolder, trainers: Sequence[Trainer], every: int) -> None:
    steps, device = trainers[0].settings.steps, trainers[0].task.device
    if trainers[0].step == 0:
        for trainer in trainers:
            folder.metrics.write(0, seed=trainer.seed, **trainer.metrics())
    targets = [t for t in (*range(trainers[0].step + every, steps, every), steps) if t > trainers[0].step]
    for target in progress(targets, "training"):
        each_in_threads(partial(_advance_to, target), trainers, device)
        for trainer in trainers:
            folder.metrics.write(trainer.step, seed=trainer.seed, **trainer.metrics())
        with atomic_path(folder.path / "checkpoint.safetensors") as aside:
            aside.write_bytes(save(_all_state(trainers)))  # save_file leaves its own temporary file behind a kill


def _advance_to(step: int, trainer: Trainer) -> None:
    trainer.advance(step - trainer.step)


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


def make_task(
    d: int | None, k: int | None, support: Sequence[int] | None, label_noise: float, seed: int, device: str
) -> SparseParity:
    """The task that a command's options describe.

    Raises:
        InputError: if they describe none.
    """
    if d is None:
        raise InputError("give --d, the dimension")
    return SparseParity(d, support, k=k, label_noise=label_noise, seed=seed, device=resolve_device(device))
