"""Runs with a folder: recorded at every checkpoint, stopped at any time, gone on with to the last bit; continued."""

import itertools
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from shared_core.device import describe_device
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_text
from shared_core.run_folder import RunFolder, installed_version, read_config

from leaky_relu_bias.assumptions import check_assumptions
from leaky_relu_bias.continuation import continue_to
from leaky_relu_bias.datasets import load
from leaky_relu_bias.descent import EngineName, descend, frozen_pattern, make_engine
from leaky_relu_bias.device import device_for, moved
from leaky_relu_bias.gradient_descent import Engine
from leaky_relu_bias.max_margin import Limits, limits
from leaky_relu_bias.network import TwoLayerNet, block_signs
from leaky_relu_bias.normalized import NormalizedGD
from leaky_relu_bias.options import DataOptions
from leaky_relu_bias.orthogonality import TrainingSet, training_set
from leaky_relu_bias.step_size import AUTO_STEP, Eta
from leaky_relu_bias.trajectory import Snapshot, Trajectory, checkpoint_times
from leaky_relu_bias.verdicts import judge

log = logging.getLogger(__name__)
PACKAGE = "leaky-relu-bias"
SAVE_SECONDS = 20.0
Mode = Literal["log-time", "exact", "normalized"]


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run."""

    source: str
    data: DataOptions = field(default_factory=DataOptions)
    m: int = 50
    gamma: float = 0.5
    sigma0: float = 1e-4
    eta: float | None = None
    steps: int = 100_000
    engine: EngineName = "auto"
    dtype: Literal["float64", "float32"] = "float64"
    seed: int = 0
    seeds: int = 1

    def nets(self) -> tuple[TwoLayerNet, ...]:
        """One network a seed.

        Raises:
            InputError: for values out of range.
        """
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        return tuple(TwoLayerNet(self.m, self.gamma, self.sigma0, self.seed + k) for k in range(self.seeds))


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
    where = device_for(device, data, settings.m, settings.seeds)
    data = moved(data, where, getattr(torch, settings.dtype))
    if settings.dtype == "float32" and settings.steps > 100_000:
        log.warning("float32 stalls beyond about 1e5 steps; use float64")
    engine, why = make_engine(data, nets, "auto" if settings.eta is None else settings.eta, settings.engine)
    _warn_uncovered(data)
    recorded = asdict(settings) | {"data_hash": data.digest, "device": where.type}
    with RunFolder(out or f"runs/{PACKAGE}-run", package=PACKAGE, settings=recorded) as folder:
        finished = folder.read_json("result.json")
        if finished is not None:
            log.info("%s holds this run, finished", folder.path)
            return finished
        log.info("engine %s (%s), on %s, into %s", engine.name, why, describe_device(where), folder.path)
        start = time.perf_counter()
        _save_tensors(folder.path / "data.safetensors", {"X": data.X, "y": data.y})
        _train(engine, checkpoint_times(settings.steps), folder)
        snapshots = _read_snapshots(folder)
        trajectory = Trajectory(data, nets, snapshots, engine, why, time.perf_counter() - start)
        result = {"verb": "run"} | _describe(trajectory, settings.dtype) | _outcome(trajectory)
        _write_record(folder, trajectory, predict(trajectory), result)
        return result


def _warn_uncovered(data: TrainingSet) -> None:
    if data.ratio < 1:
        log.warning("R_min^2 / (n p) = %.3g < 1: the points are not nearly orthogonal; see `check`", data.ratio)


def _train(engine: Engine, times: list[int], folder: RunFolder) -> None:
    checkpoint = folder.path / "checkpoint.safetensors"
    if checkpoint.exists():
        engine.restore(load_tensors(checkpoint))
        log.info("going on from t = %d", engine.t)
    folder.metrics.rewind(engine.t if checkpoint.exists() else -1)
    saved = time.monotonic()

    def save(at: Engine) -> None:
        nonlocal saved
        if time.monotonic() - saved >= SAVE_SECONDS:
            _save_tensors(checkpoint, at.state())
            saved = time.monotonic()
            log.info("t = %d", at.t)

    for snapshot in descend(engine, times, save):
        for row in snapshot.rows():
            folder.metrics.write(engine.t, **row)
        _save_tensors(checkpoint, engine.state())
        worst = snapshot.values
        log.info(
            "t = %d  log10 loss %.3f  block stable ranks %.6f %.6f",
            engine.t, worst["log10_loss"].max(), worst["sr_pos"].max(), worst["sr_neg"].max(),
        )  # fmt: skip


def _read_snapshots(folder: RunFolder) -> tuple[Snapshot, ...]:
    groups = itertools.groupby(folder.metrics.read(), key=lambda row: row["step"])
    return tuple(Snapshot.of_rows(list(rows)) for _, rows in groups)


def predict(trajectory: Trajectory, run: int = 0) -> Limits:
    """The limits of a run: from the data alone where they hold for it, else with the pattern that it reached.

    The prediction before training takes every neuron to be active on the points of its class. Where some are not
    (ReLU, and leaky nets of small slope), the limits are those of the pattern reached, and the reason says so.
    """
    net, data = trajectory.nets[run], trajectory.data
    data = TrainingSet(data.X.double(), data.y.double())
    # the h of loss-normalised descent is no step size
    eta: Eta = float(trajectory.engine.eta[run]) if trajectory.engine.name != "normalized" else "auto"
    first = limits(data, None, net, eta=eta)
    D = frozen_pattern(trajectory.engine)[run].double()
    own = block_signs(net.m, data.y)[:, None] == data.y
    idle = float((D[own] < 1).double().mean())
    if first.applicable and (net.gamma == 0 or idle == 0):
        return first
    reached = limits(data, None, net, eta=eta, pattern=D)
    return replace(reached, reason=f"with the pattern reached at t = {trajectory.engine.t}: {reached.reason}")


def _describe(trajectory: Trajectory, dtype: str) -> dict[str, Any]:
    net, engine, data = trajectory.nets[0], trajectory.engine, trajectory.data
    eta = float(engine.eta[0])
    return {
        "package": PACKAGE,
        "version": installed_version(PACKAGE),
        "engine": engine.name,
        "why": trajectory.why,
        "work": engine.work(),
        "dtype": dtype,
        **data.describe(),
        "m": net.m,
        "gamma": net.gamma,
        "eta": eta,
        "relative_step": eta / data.step_scale(net.m),
        "sigma0": net.sigma0,
        "seeds": [item.seed for item in trajectory.nets],
        "seconds": round(trajectory.seconds, 3),
    }


def _outcome(trajectory: Trajectory) -> dict[str, Any]:
    ends = []
    for run, net in enumerate(trajectory.nets):
        predicted = predict(trajectory, run)
        eta = float(trajectory.engine.eta[run])
        data = TrainingSet(trajectory.data.X.double(), trajectory.data.y.double())
        assumptions = check_assumptions(data, None, net, eta=eta)
        verdicts = judge(trajectory, predicted, assumptions, run)
        row = trajectory.snapshots[-1].rows()[run]
        ends.append(
            {"seed": net.seed, "final": row, "limits": predicted.to_dict(),
             "claims": [item.to_dict() for item in verdicts]}
        )  # fmt: skip
    return {"runs": ends}


def _write_record(folder: RunFolder, trajectory: Trajectory, predicted: Limits, result: dict[str, Any]) -> None:
    from leaky_relu_bias import figures  # matplotlib is slow to import, and bad input is told before it is needed

    write_text(folder.path / "trajectory.csv", trajectory.to_pandas().to_csv(index=False))
    write_text(folder.path / "margins.csv", _margins_csv(trajectory))
    for name, figure in figures.of_trajectory(trajectory, predicted).items():
        folder.save_figure(name, figure)
    folder.write_json("result.json", result)


def _margins_csv(trajectory: Trajectory) -> str:
    points = [f"q_{index}" for index in range(trajectory.data.n)]
    lines = [",".join(["seed", "log10_t", *points])]
    lines += [",".join(map(repr, [row["seed"], row["log10_t"], *row["margins"]])) for row in trajectory.rows()]
    return "\n".join(lines) + "\n"


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as aside:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, aside)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: if it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from error


def load_run(path: str | Path, device: str = "auto") -> tuple[Trajectory, RunSettings]:
    """A finished or interrupted run as it was last saved.

    Raises:
        InputError: if the folder holds no such run, or its files do not belong together.
    """
    folder = Path(path)
    parts = [folder / name for name in ("config.yaml", "checkpoint.safetensors", "data.safetensors", "metrics.jsonl")]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise InputError(f"{folder} is no folder of `{PACKAGE} run`: {missing[0]} is missing")
    recorded = dict(read_config(parts[0]).get("settings", {}))
    digest, _ = recorded.pop("data_hash", None), recorded.pop("device", None)
    try:
        settings = RunSettings(**(recorded | {"data": DataOptions(**recorded["data"])}))
    except (TypeError, KeyError) as error:
        raise InputError(f"{parts[0]} does not hold the settings of a run ({error})") from error
    stored = load_tensors(parts[2])
    data = training_set(stored["X"], stored["y"], dtype=stored["X"].dtype)
    data = moved(data, device_for(device, data, settings.m, settings.seeds), stored["X"].dtype)
    if data.digest != digest:
        raise InputError(f"{parts[2]} does not hold the data of this run (hash {data.digest}, expected {digest})")
    engine, why = make_engine(data, settings.nets(), "auto" if settings.eta is None else settings.eta, settings.engine)
    engine.restore(load_tensors(parts[1]))
    rows = [row for row in RunReader(parts[3]) if row["step"] <= engine.t]
    groups = itertools.groupby(rows, key=lambda row: row["step"])
    snapshots = tuple(Snapshot.of_rows(list(group)) for _, group in groups)
    return Trajectory(data, settings.nets(), snapshots, engine, why, 0.0), settings


class RunReader:
    """The rows of a `metrics.jsonl` that nobody is writing."""

    def __init__(self, path: Path) -> None:
        from shared_core.logging import MetricsLog

        self._rows = MetricsLog(path).read()

    def __iter__(self) -> Any:
        return iter(self._rows)


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
    recorded = asdict(settings) | {"continued_from": t, "mode": mode, "data_hash": trajectory.data.digest}
    recorded |= {"log10_t": log10_t} if mode == "log-time" else {"continue_steps": steps}
    with RunFolder(out or Path(run) / f"continue-{mode}", package=PACKAGE, settings=recorded) as folder:
        finished = folder.read_json("result.json")
        if finished is not None:
            return finished
        start = time.perf_counter()
        if later is None:
            later = _more_steps(trajectory, mode, steps, folder)
        whole = later if mode == "normalized" else trajectory.then(later)
        _write_rows(folder, whole.snapshots)
        seconds = later.seconds if mode == "log-time" else time.perf_counter() - start
        whole = Trajectory(whole.data, whole.nets, whole.snapshots, whole.engine, later.why, seconds)
        result = {"verb": "continue", "mode": mode, "continued_from": t} | _describe(whole, settings.dtype)
        if mode == "normalized":
            result |= {"runs": _ends_without_clock(whole, trajectory)}
        else:
            result |= _outcome(whole)
        _write_record(folder, whole, predict(trajectory), result)
        return result


def _ends_without_clock(whole: Trajectory, before: Trajectory) -> list[dict[str, Any]]:
    """Loss-normalised steps are not time: there is no t L, hence no verdict."""
    rows = whole.snapshots[-1].rows()
    return [
        {"seed": net.seed, "final": rows[run], "limits": predict(before, run).to_dict()}
        for run, net in enumerate(whole.nets)
    ]


def _more_steps(trajectory: Trajectory, mode: Mode, steps: int, folder: RunFolder) -> Trajectory:
    engine = trajectory.engine
    if mode == "normalized":
        data, nets = trajectory.data, trajectory.nets
        gamma = engine.gamma.flatten()
        h = torch.full_like(gamma, AUTO_STEP * data.step_scale(nets[0].m))
        engine = NormalizedGD(data, engine.weights(), gamma, h)
    times = [time_ for time_ in checkpoint_times(steps) if mode == "normalized" or time_ > engine.t]
    checkpoint = folder.path / "checkpoint.safetensors"
    if checkpoint.exists():
        engine.restore(load_tensors(checkpoint))
    _train(engine, times, folder)
    why = "loss-normalised steps" if mode == "normalized" else f"continued exactly from t = {trajectory.engine.t}"
    return Trajectory(trajectory.data, trajectory.nets, _read_snapshots(folder), engine, why)


def _write_rows(folder: RunFolder, snapshots: Iterable[Snapshot]) -> None:
    folder.metrics.rewind(-1)
    for index, snapshot in enumerate(snapshots):
        for row in snapshot.rows():
            folder.metrics.write(index, **row)
