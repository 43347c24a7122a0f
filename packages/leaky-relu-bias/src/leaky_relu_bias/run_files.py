"""What a run's folder holds, written and read: settings, data, checkpoint, record, tables, figures."""

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_text
from shared_core.logging import MetricsLog
from shared_core.run_folder import RunFolder, read_config

from leaky_relu_bias.descent import EngineName, make_engine
from leaky_relu_bias.device import device_for, moved
from leaky_relu_bias.gradient_descent import Engine
from leaky_relu_bias.max_margin import Limits
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.options import DataOptions
from leaky_relu_bias.orthogonality import training_set
from leaky_relu_bias.outcome import PACKAGE
from leaky_relu_bias.step_size import Eta
from leaky_relu_bias.trajectory import Snapshot, Trajectory


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run."""

    source: str
    data: DataOptions = field(default_factory=DataOptions)
    m: int = 50
    gamma: float = 0.5
    sigma0: float = 1e-4
    learning_rate: float | None = None
    steps: int = 100_000
    engine: EngineName = "auto"
    dtype: Literal["float64", "float32"] = "float64"
    seed: int = 0
    runs: int = 1

    def nets(self) -> tuple[TwoLayerNet, ...]:
        """One network a seed.

        Raises:
            InputError: for values out of range.
        """
        if self.runs < 1:
            raise InputError(f"runs must be at least 1, got {self.runs}")
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        return tuple(TwoLayerNet(self.m, self.gamma, self.sigma0, self.seed + k) for k in range(self.runs))


def load_run(path: str | Path, device: str = "auto") -> tuple[Trajectory, RunSettings]:
    """A finished or interrupted run as it was last saved.

    Raises:
        InputError: if the folder holds no such run, or its files do not belong together.
    """
    folder = Path(path)
    parts = [folder / name for name in ("config.yaml", "checkpoint.safetensors", "data.safetensors", "metrics.jsonl")]
    missing = [part.name for part in parts if not part.exists()]
    settings, digest = (None, None) if parts[0].name in missing else _read_settings(parts[0])
    if settings is None or missing:
        raise InputError(f"{folder} is no folder of `{PACKAGE} run`: {missing[0]} is missing")
    stored = load_tensors(parts[2])
    if not {"X", "y"} <= set(stored):
        raise InputError(f"{parts[2]} must hold X and y, it holds {', '.join(stored)}")
    data = training_set(stored["X"], stored["y"], dtype=stored["X"].dtype)
    data = moved(data, device_for(device, data, settings.m, settings.runs), stored["X"].dtype)
    if data.digest != digest:
        raise InputError(f"{parts[2]} does not hold the data of this run (hash {data.digest}, expected {digest})")
    eta: Eta = "auto" if settings.learning_rate is None else settings.learning_rate
    engine, why = make_engine(data, settings.nets(), eta, settings.engine)
    restore(engine, parts[1])
    snapshots = read_snapshots(MetricsLog(parts[3]), engine.t)
    return Trajectory(data, settings.nets(), snapshots, engine, why, 0.0), settings


def restore(engine: Engine, path: Path) -> None:
    """Let an engine go on from a checkpoint.

    Raises:
        InputError: if the file is no checkpoint of such an engine.
    """
    state = load_tensors(path)
    wanted = {name: value.shape for name, value in engine.state().items()}
    if {name: value.shape for name, value in state.items()} != wanted:
        raise InputError(f"{path} is no checkpoint of this run: {', '.join(wanted)} of its sizes were expected")
    engine.restore(state)


def _read_settings(path: Path) -> tuple[RunSettings, str | None]:
    recorded = dict(read_config(path).get("settings") or {})
    mode = recorded.pop("mode", "exact")
    if mode != "exact":
        raise InputError(f"{path.parent} holds a {mode} continuation, which is an end: continue the run that it is of")
    digest = recorded.pop("data_hash", None)
    for name in ("verb", "device"):
        recorded.pop(name, None)
    # of an exact continuation, which is a longer run
    recorded.pop("continued_from", None)
    steps = recorded.pop("continue_steps", None)
    try:
        recorded |= {"data": DataOptions(**recorded["data"])} | ({} if steps is None else {"steps": steps})
        return RunSettings(**recorded), digest
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} does not hold the settings of a run ({error})") from error


def read_snapshots(metrics: MetricsLog, until: float = math.inf) -> tuple[Snapshot, ...]:
    """The records of a `metrics.jsonl` up to a step.

    Raises:
        InputError: if a row is not the record of a run.
    """
    groups = itertools.groupby(metrics.read(), key=lambda row: row.get("step", math.nan))
    try:
        return tuple(Snapshot.of_rows(list(rows)) for step, rows in groups if step <= until)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{metrics.path} does not hold the record of a run ({error!r})") from error


def write_record(folder: RunFolder, trajectory: Trajectory, predicted: Limits, result: dict[str, Any]) -> None:
    """Write the tables, the figures and, last, the result of a finished run."""
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


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
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
