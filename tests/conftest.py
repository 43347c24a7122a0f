"""Contract tests run over every package found in packages/: an eleventh one is covered by existing.

What is costly happens once per session, whichever worker needs it first: the wheels, and for each package one
smoke reproduction, which is made in an empty environment that holds only that package's wheel.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
RUN = "smoke é 1"  # a path that a careless package would stumble over
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Package:
    """A member of the workspace, as its pyproject.toml tells it."""

    folder: Path

    @cached_property
    def project(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.module

    @property
    def command(self) -> str:
        return str(Path(sys.executable).parent / self.name)


PACKAGES = [Package(path.parent) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`package` is each package in turn; session scope keeps the tests of one package together."""
    if "package" in metafunc.fixturenames:
        metafunc.parametrize("package", PACKAGES, ids=[package.name for package in PACKAGES], scope="session")


@pytest.fixture(scope="session")
def packages() -> list[Package]:
    return PACKAGES


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The variables of a subprocess: bytecode is kept, one torch thread, no GPU, no model hub."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "COVERAGE_PROCESS_START")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return kept | offline | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command in an empty folder (unless `cwd` says where) and return what it printed."""
    empty = tmp_path_factory.mktemp("cwd")

    def go(
        *command: object, cwd: Path = empty, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment | (env or {}),
            capture_output=True,
            text=True,
            timeout=500,
        )

    return go


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def once(shared: Path) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, make)` is the folder `name`, filled by `make` in the first worker that asks for it.

    A failure is kept and told to the others, so that it is not repeated.
    """

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder, outcome = shared / name, shared / f"{name}.outcome.json"
        with FileLock(shared / f"{name}.lock"):
            if not outcome.exists():
                folder.mkdir()
                try:
                    make(folder)
                except (AssertionError, subprocess.SubprocessError) as failure:
                    outcome.write_text(json.dumps(str(failure)))
                else:
                    outcome.write_text("null")
        failed = json.loads(outcome.read_text())
        if failed is not None:
            pytest.fail(f"{name}: {failed}", pytrace=False)
        return folder

    return get


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that runs these tests, or another."""
    found = os.environ.get("UV") or shutil.which("uv") or ROOT / ".tools" / "uv" / "bin" / "uv"
    return str(Path(found).resolve())


@pytest.fixture(scope="session")
def wheels(once: Callable[[str, Callable[[Path], None]], Path], run: Run, uv: str) -> Path:
    """A folder with the wheel of every member, and constraints.txt: the lock's versions, and these very wheels."""

    def make(folder: Path) -> None:
        built = run(uv, "build", "--all-packages", "--wheel", "--out-dir", folder, cwd=ROOT)
        assert built.returncode == 0, built.stderr
        export = [uv, "export", "--frozen", "--all-packages", "--no-dev", "--no-emit-workspace", "--no-hashes", "-q"]
        locked = run(*export, cwd=ROOT)
        assert locked.returncode == 0, locked.stderr
        # By their path, not only their name: a registry may hold something else of the same name.
        ours = [f"{wheel.name.split('-')[0].replace('_', '-')} @ {wheel.as_uri()}" for wheel in folder.glob("*.whl")]
        (folder / "constraints.txt").write_text("\n".join([locked.stdout, *ours, ""]))

    return once("wheels", make)


@pytest.fixture(scope="session")
def alone(wheels: Path, run: Run, uv: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Package], Path]:
    """Make an environment in which only one package's wheel, and what it asks for, is installed.

    Each worker uses one place for all of them: bytecode is kept by path, so torch is compiled once a worker and not
    once a package.
    """
    place = tmp_path_factory.mktemp("alone", numbered=False) / "venv"
    cache = Path(run(uv, "cache", "dir").stdout.strip())
    same_disk = cache.exists() and cache.stat().st_dev == place.parent.stat().st_dev
    link = "hardlink" if same_disk else "symlink"  # a copy would be gigabytes

    def install(package: Package) -> Path:
        made = run(uv, "venv", "--clear", "--quiet", "--python", sys.executable, place)
        assert made.returncode == 0, made.stderr
        options = ["--find-links", wheels, "--constraints", wheels / "constraints.txt", "--link-mode", link]
        installed = run(uv, "pip", "install", "--quiet", "--python", place, *options, package.name)
        assert installed.returncode == 0, installed.stderr
        return place / "bin"

    return install


@pytest.fixture(scope="session")
def smoke(
    once: Callable[[str, Callable[[Path], None]], Path], alone: Callable[[Package], Path], run: Run
) -> Callable[[Package], Path]:
    """A folder with `smoke é 1/`, which `NAME reproduce --scale smoke` wrote where only NAME is installed, and with
    what that and a few other commands answered there, as `{"code", "out", "err"}` in a JSON file each."""

    def get(package: Package) -> Path:
        def make(folder: Path) -> None:
            bin = alone(package)
            kept = {"PYTHONPYCACHEPREFIX": str(bin.parents[1] / "bytecode")}
            for name, command in {
                "version": [bin / package.name, "--version"],
                "api": [bin / "python", "-c", API, package.module],
                "distributions": [bin / "python", "-c", DISTRIBUTIONS],
                "reproduce": [bin / package.name, "reproduce", "--scale", "smoke", "--out", folder / RUN],
            }.items():
                done = run(*command, env=kept)
                outcome = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
                (folder / f"{name}.json").write_text(json.dumps(outcome))

        return once(package.name, make)

    return get


API = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
names = module.__all__
for name in names:
    getattr(module, name)
print(len(names))
"""
DISTRIBUTIONS = """
import importlib.metadata
print(*sorted(item.name for item in importlib.metadata.distributions()), sep="\\n")
"""

CALLS = """
import contextlib, importlib, io, json, sys
name, module, *_ = sys.argv[1:]
main = importlib.import_module(module + ".cli").main
answers = []
for arguments in json.load(sys.stdin):
    with contextlib.ExitStack() as stack:
        if arguments[:1] == ["LOCK"]:
            import filelock
            stack.enter_context(filelock.FileLock(arguments[1] + "/.lock"))
            arguments = arguments[2:]
        sys.argv = [name, *arguments]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    loaded = [part for part in ("torch",) if part in sys.modules]
    answers.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "loaded": loaded})
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="session")
def calls(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Give a package's command several lists of arguments, in one process (torch is imported once for all of them).

    A list that begins with "LOCK", FOLDER is called while another run holds FOLDER.
    """

    def go(package: Package, *commands: list[str], cwd: Path | None = None) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-c", CALLS, package.name, package.module],
            input=json.dumps(commands),
            cwd=cwd or tmp_path_factory.mktemp("cwd"),
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return go
