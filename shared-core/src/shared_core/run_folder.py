"""The run folder: `config.yaml`, `metrics.jsonl`, `result.json`, `figures/`, checkpoints; resume or refuse."""

import importlib.metadata
import itertools
import logging
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shared_core.errors import InputError
from shared_core.files import atomic_path, jsonable, write_json, write_text
from shared_core.logging import MetricsLog

log = logging.getLogger(__name__)
RECORDED_VERSIONS = ("torch", "numpy", "transformers", "diffusers", "peft", "accelerate")


class RunFolder:
    """One run's folder, held exclusively while it is open.

    Args:
        path: made if missing; None for `runs/PACKAGE-VERB` or the next free one, as `run_path` says.
        package: distribution name, e.g. `dndm-sampler`.
        settings: everything that determines the result, seed included, and `verb`; a second run with equal settings
            resumes, with other settings it is refused.
        result: what a finished run has, for the line that says that this run is there already; None says nothing.

    Attributes:
        resumed: whether an earlier run with the same settings was found here.
        metrics: the folder's `metrics.jsonl`.

    Raises:
        InputError: if `path` is a file, holds something else or another run, or a run is writing into it now.
    """

    def __init__(
        self, path: str | Path | None, *, package: str, settings: Mapping[str, Any], result: str | None = "result.json"
    ) -> None:
        import filelock

        self.package, self._result = package, result
        self.settings = _as_stored(settings)
        self.path = run_path(path, package=package, settings=settings)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; give a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._refuse_foreign()  # before the lock: a folder that is not ours stays as it was
        self._lock = filelock.FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"another run is writing into {self.path}; wait for it or give another --out") from None
        try:
            self.resumed = self._resume_or_refuse()
            self._remove_parts()
        except BaseException:
            self.close()
            raise
        self.metrics = MetricsLog(self.path / "metrics.jsonl")

    def _refuse_foreign(self) -> None:
        # A kill between mkdir and config.yaml leaves the lock and perhaps a part file: that is still empty.
        others = sorted(item.name for item in self.path.iterdir() if not item.name.startswith("."))
        if others and not (self.path / "config.yaml").exists():
            raise InputError(f"--out {self.path} is not empty and holds no run (it has {others[0]})")

    def _resume_or_refuse(self) -> bool:
        config = self.path / "config.yaml"
        if not config.exists():
            self._write_config(config)
            return False
        earlier = read_config(config)
        if not isinstance(earlier.get("settings"), dict):
            raise InputError(f"{config} is not the configuration of a run: it has no settings")
        differences = _all_differences(earlier, self.package, self.settings)
        if differences:
            more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
            raise InputError(
                f"{self.path} holds another run: {'; '.join(differences[:3])}{more}; give another --out or remove it"
            )
        if earlier.get("version") != installed_version(self.package):
            log.warning("resuming a run begun by %s %s", self.package, earlier.get("version"))
        if self._result is not None:
            finished = (self.path / self._result).exists()
            state = "finished with these settings" if finished else "begun with these settings, what is done is kept"
            log.info("already there: %s, %s", self.path, state)
        return True

    def _remove_parts(self) -> None:
        """Take away what a killed run was writing: nobody else writes here while the lock is held."""
        # the second pattern is how safetensors names what it has not renamed yet
        for part in [*self.path.rglob(".*.part"), *self.path.rglob(".tmp??????")]:
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    def _write_config(self, path: Path) -> None:
        config = {
            "package": self.package,
            "version": installed_version(self.package),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "settings": self.settings,
            "versions": {"python": platform.python_version()}
            | {name: installed_version(name) for name in RECORDED_VERSIONS if installed_version(name)},
        }
        write_text(path, _to_yaml(config))

    def write_json(self, name: str, value: Any) -> None:
        """Write `name` inside the folder atomically."""
        write_json(self.path / name, value)

    def read_json(self, name: str) -> Any | None:
        """The content of `name`, or None where it is not there yet.

        Raises:
            InputError: if the file is there and is not JSON.
        """
        return read_json(self.path / name) if (self.path / name).exists() else None

    def save_figure(self, name: str, figure: Any) -> str:
        """Save a matplotlib figure as `figures/NAME.png` and return that relative path."""
        relative = f"figures/{name}.png"
        with atomic_path(self.path / relative) as aside:
            figure.savefig(aside, format="png", dpi=150, bbox_inches="tight")
        return relative

    def close(self) -> None:
        """Let other runs use the folder."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_path(
    path: str | Path | None, *, package: str, settings: Mapping[str, Any], base: str | Path | None = None
) -> Path:
    """The folder that was named; without one `base`, or the first of base-2, base-3, ... that takes the run.

    A folder takes the run if it is new, empty, or holds this very run, which is then resumed. So the same command goes
    on where it stopped, and one with other settings does not stand in its way.

    Args:
        path: what the user named.
        package: as for `RunFolder`.
        settings: as for `RunFolder`.
        base: the first choice; by default `runs/PACKAGE-VERB`, with the verb from the settings.
    """
    if path is not None:
        return Path(path)
    base = base or f"runs/{package}-{settings['verb']}"
    wanted = _as_stored(settings)
    for number in itertools.count(1):
        path = Path(base if number == 1 else f"{base}-{number}")
        if _takes(path, package, wanted):
            if number > 1:
                log.info("%s holds another run; this one is in %s", base, path)
            return path
    raise AssertionError("unreachable")


def _takes(path: Path, package: str, settings: dict[str, Any]) -> bool:
    if not path.exists():
        return True
    if not path.is_dir():
        return False
    if not (path / "config.yaml").exists():
        return all(item.name.startswith(".") for item in path.iterdir())
    try:
        earlier = read_config(path / "config.yaml")
    except InputError:
        return False
    return isinstance(earlier.get("settings"), dict) and not _all_differences(earlier, package, settings)


def _as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as those of an earlier run come back from its file: a few odd characters do not survive YAML."""
    import yaml

    stored: dict[str, Any] = yaml.safe_load(_to_yaml(jsonable(settings)))
    return stored


def _to_yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a `config.yaml` (data only; no tag executes anything).

    Raises:
        InputError: if it is not YAML or not a mapping.
    """
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}: not YAML ({error.problem})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a mapping of settings, got {type(config).__name__}")
    return config


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if it is not JSON (names the file and line).
    """
    import json

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error


def _all_differences(earlier: Mapping[str, Any], package: str, settings: Mapping[str, Any]) -> list[str]:
    """A text for each way in which the run of a `config.yaml` is not this one."""
    other = earlier.get("package") != package
    return [f"package was {earlier.get('package')}, is {package}"] * other + _differences(earlier["settings"], settings)


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A text for each setting that differs; inside groups of settings only what differs there."""
    found = []
    for key in sorted({*earlier, *now}):
        before, after = earlier.get(key, "not set"), now.get(key, "not set")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after or (key in earlier) != (key in now):
            found.append(f"{prefix}{key} was {before}, is {after}")
    return found


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
