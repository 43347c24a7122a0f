"""A finished run taken further: in log time, by more exact steps, or by loss-normalised descent."""

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from shared_core.errors import InputError
from shared_core.run_folder import RunFolder, run_path

from leaky_relu_bias.continuation import continue_to
from leaky_relu_bias.normalized import NormalizedGD
from leaky_relu_bias.outcome import PACKAGE, describe, ends, predict
from leaky_relu_bias.run import train
from leaky_relu_bias.run_files import load_run, read_snapshots, save_tensors, write_record
from leaky_relu_bias.step_size import AUTO_STEP
from leaky_relu_bias.trajectory import Snapshot, Trajectory, checkpoint_times

Mode = Literal["log-time", "exact", "normalized"]


def continue_run(
    run: str | Path,
    mode: Mode = "log-time",
    log10_t: float = 100.0,
    steps: int = 1_000_000,
    out: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Take a run further and return the `result.json` of the continued one.

    Args:
        run: folder of a run.
        mode: `log-time` (A4, to 10^log10_t), `exact` (to `steps` in all), `normalized` (A5, `steps` more).
        log10_t: where log-time ends.
        steps: where exact steps end, or how many loss-normalised ones.
        out: folder; RUN/continue-MODE by default.
        device: where to compute.

    Raises:
        InputError: if there is no such run, or the end is not beyond the present.
        RunError: if the pattern cannot be held to the end (log-time).
    """
    trajectory, settings = load_run(run, device)
    t = trajectory.engine.t
    if mode == "exact" and steps <= t:
        raise InputError(f"steps must be more than the run's {t}, got {steps}")
    if mode == "normalized" and steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    # before a folder is made: a continuation that cannot be is told at once
    later = continue_to(trajectory, log10_t) if mode == "log-time" else None
    recorded = (
        {"verb": "continue"}
        | asdict(settings)
        | {"continued_from": t, "mode": mode, "data_hash": trajectory.data.digest}
    )
    recorded |= {"log10_t": log10_t} if mode == "log-time" else {"continue_steps": steps}
    path = run_path(out, package=PACKAGE, settings=recorded, base=Path(run, f"continue-{mode}"))
    with RunFolder(path, package=PACKAGE, settings=recorded) as folder:
        finished = folder.read_json("result.json")
        if finished is not None:
            return finished
        start = time.perf_counter()
        if later is not None:
            whole = trajectory.then(later)
            _write_rows(folder, whole.snapshots, range(len(whole.snapshots)))
        elif mode == "exact":
            whole = _exact_steps(trajectory, steps, folder)
        else:
            whole = _normalized_steps(trajectory, steps, folder)
        seconds = later.seconds if later is not None else time.perf_counter() - start
        whole = replace(whole, seconds=seconds)
        result = {"verb": "continue", "mode": mode, "continued_from": t} | describe(whole, settings.dtype)
        result["runs"] = _ends_without_clock(whole, trajectory) if mode == "normalized" else ends(whole)
        write_record(folder, whole, predict(trajectory), result)
        return result


def _ends_without_clock(whole: Trajectory, before: Trajectory) -> list[dict[str, Any]]:
    """Loss-normalised steps are not time: there is no t L, hence no verdict."""
    rows = whole.snapshots[-1].rows()
    return [
        {"seed": net.seed, "final": rows[run], "limits": predict(before, run).to_dict()}
        for run, net in enumerate(whole.nets)
    ]


def _exact_steps(trajectory: Trajectory, steps: int, folder: RunFolder) -> Trajectory:
    """The folder becomes that of one longer run, which can be continued in its turn."""
    engine, begun = trajectory.engine, trajectory.engine.t
    checkpoint = folder.path / "checkpoint.safetensors"
    if not checkpoint.exists():
        _write_rows(folder, trajectory.snapshots, [round(t) for t in trajectory.t.tolist()])
        save_tensors(folder.path / "data.safetensors", {"X": trajectory.data.X, "y": trajectory.data.y})
        save_tensors(checkpoint, engine.state())
    train(engine, [time_ for time_ in checkpoint_times(steps) if time_ > begun], folder)
    why = f"{trajectory.why}; continued exactly from t = {begun}"
    return replace(trajectory, snapshots=read_snapshots(folder.metrics), why=why)


def _normalized_steps(trajectory: Trajectory, steps: int, folder: RunFolder) -> Trajectory:
    data, gamma = trajectory.data, trajectory.engine.gamma.flatten()
    h = torch.full_like(gamma, AUTO_STEP * data.step_scale(trajectory.nets[0].m))
    engine = NormalizedGD(data, trajectory.engine.weights(), gamma, h)
    train(engine, checkpoint_times(steps), folder)
    return Trajectory(data, trajectory.nets, read_snapshots(folder.metrics), engine, "loss-normalised steps")


def _write_rows(folder: RunFolder, snapshots: Iterable[Snapshot], steps: Iterable[int]) -> None:
    folder.metrics.rewind(-1)
    for step, snapshot in zip(steps, snapshots, strict=True):
        for row in snapshot.rows():
            folder.metrics.write(step, **row)
