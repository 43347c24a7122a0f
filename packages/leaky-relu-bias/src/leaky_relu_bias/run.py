"""Runs with a folder: recorded at every checkpoint, stopped at any time, gone on with to the last bit."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from shared_core.device import describe_device
from shared_core.run_folder import RunFolder

from leaky_relu_bias.datasets import load
from leaky_relu_bias.descent import descend, make_engine
from leaky_relu_bias.device import device_for, moved
from leaky_relu_bias.gradient_descent import Engine
from leaky_relu_bias.orthogonality import TrainingSet
from leaky_relu_bias.outcome import PACKAGE, describe, ends, predict
from leaky_relu_bias.run_files import RunSettings, read_snapshots, restore, save_tensors, write_record
from leaky_relu_bias.step_size import Eta
from leaky_relu_bias.trajectory import Trajectory, checkpoint_times

log = logging.getLogger(__name__)
SAVE_SECONDS = 20.0


def run_to_folder(settings: RunSettings, out: str | Path | None = None, device: str = "auto") -> dict[str, Any]:
    """Train as `settings` say, in a run folder, and return its `result.json`.

    A second call with the same settings goes on where the first was stopped, with the same arithmetic to the last bit
    on a CPU, or returns the finished result.

    Raises:
        InputError: for bad data, values out of range, or a folder that holds another run.
        RunError: if the weights become infinite.
    """
    nets = settings.nets()
    data = load(settings.source, settings.data)
    where = device_for(device, data, settings.m, settings.runs)
    data = moved(data, where, getattr(torch, settings.dtype))
    if settings.dtype == "float32" and settings.steps > 100_000:
        log.warning("float32 stalls beyond about 1e5 steps; use float64")
    eta: Eta = "auto" if settings.learning_rate is None else settings.learning_rate
    engine, why = make_engine(data, nets, eta, settings.engine)
    _warn_uncovered(data)
    recorded = {"verb": "run"} | asdict(settings) | {"data_hash": data.digest, "device": where.type}
    with RunFolder(out, package=PACKAGE, settings=recorded) as folder:
        finished = folder.read_json("result.json")
        if finished is not None:
            return finished
        log.info("engine %s (%s), on %s, into %s", engine.name, why, describe_device(where), folder.path)
        start = time.perf_counter()
        save_tensors(folder.path / "data.safetensors", {"X": data.X, "y": data.y})
        train(engine, checkpoint_times(settings.steps), folder)
        snapshots = read_snapshots(folder.metrics)
        trajectory = Trajectory(data, nets, snapshots, engine, why, time.perf_counter() - start)
        result = {"verb": "run"} | describe(trajectory, settings.dtype) | {"runs": ends(trajectory)}
        write_record(folder, trajectory, predict(trajectory), result)
        return result


def _warn_uncovered(data: TrainingSet) -> None:
    if data.ratio < 1:
        log.warning("R_min^2 / (n p) = %.3g < 1: the points are not nearly orthogonal; see `check`", data.ratio)


def train(engine: Engine, times: list[int], folder: RunFolder) -> None:
    """Advance to the times in turn and record each, going on from the folder's checkpoint if there is one."""
    checkpoint = folder.path / "checkpoint.safetensors"
    if checkpoint.exists():
        restore(engine, checkpoint)
        log.info("going on from t = %d", engine.t)
    folder.metrics.rewind(engine.t if checkpoint.exists() else -1)
    saved = time.monotonic()

    def save(at: Engine) -> None:
        nonlocal saved
        if time.monotonic() - saved >= SAVE_SECONDS:
            save_tensors(checkpoint, at.state())
            saved = time.monotonic()
            log.info("t = %d", at.t)

    for snapshot in descend(engine, times, save):
        for row in snapshot.rows():
            folder.metrics.write(engine.t, **row)
        save_tensors(checkpoint, engine.state())
        worst = snapshot.values
        log.info(
            "t = %d  log10 loss %.3f  block stable ranks %.6f %.6f",
            engine.t, worst["log10_loss"].max(), worst["sr_pos"].max(), worst["sr_neg"].max(),
        )  # fmt: skip
