"""The front door."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[1] / "Makefile").read_text()
TARGETS = [target for line in re.findall(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE) for target in line.split()]
PUBLIC = [target for target in TARGETS if not target.startswith("_")]
PROMISED = {"help", "setup", "demo", "reproduce", "bench", "test-all", "test", "lint", "typecheck", "build", "clean"}


def test_help_lists_every_target(root: Path, run: Callable[..., Any], packages: list[Any]) -> None:
    answer = run("make", "help", cwd=root)
    assert answer.returncode == 0
    listed = re.findall(r"^  make (\S+)", answer.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(PUBLIC)
    assert set(listed) >= PROMISED
    assert answer.stdout.splitlines()[-1].split() == ["packages:", *(package.name for package in packages)]
    assert run("make", cwd=root).stdout == answer.stdout


@pytest.mark.parametrize("target", PUBLIC)
def test_every_target_can_be_planned(root: Path, run: Callable[..., Any], packages: list[Any], target: str) -> None:
    answer = run("make", "-n", target, f"PKG={packages[0].name}", cwd=root)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout


def test_test_without_a_package_says_what_is_missing(root: Path, run: Callable[..., Any]) -> None:
    answer = run("make", "-n", "test", cwd=root)
    assert answer.returncode == 2
    assert "PKG=NAME" in answer.stderr


def _without_uv(root: Path, place: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the front door in a folder, and a PATH on which there is no uv."""
    project, bin = place / "a clone é", place / "bin"
    project.mkdir()
    bin.mkdir()
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(root / name, project)
    for tool in ("bash", "sh", "make", "python3", "grep", "sed", "awk"):
        found = shutil.which(tool)
        if found:
            (bin / tool).symlink_to(found)
    return project, {"PATH": str(bin)}


@pytest.mark.parametrize("first", ["setup", "demo", "test-all", "lint", "build"])
def test_a_missing_uv_is_fetched_whatever_the_first_command_is(
    root: Path, run: Callable[..., Any], tmp_path: Path, first: str
) -> None:
    project, path = _without_uv(root, tmp_path)
    plan = run("make", "-n", first, cwd=project, env=path)
    assert plan.returncode == 0, plan.stderr
    fetched = plan.stdout.index("python3 -m venv .tools/uv")
    assert fetched < plan.stdout.index("pip install ") < plan.stdout.index(".tools/uv/bin/uv sync --frozen")


def test_a_uv_on_the_path_is_used_and_none_is_fetched(root: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    project, path = _without_uv(root, tmp_path)
    own = tmp_path / "bin" / "uv"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    plan = run("make", "-n", "setup", cwd=project, env=path)
    assert "venv" not in plan.stdout
    assert f"{own} sync --frozen" in plan.stdout


def test_set_up_is_brought_up_to_date_by_every_target_that_needs_it(root: Path, run: Callable[..., Any]) -> None:
    """uv itself compares, each time: a changed lock or a new package cannot be missed."""
    for target in sorted(PROMISED - {"help", "clean", "test"}):
        assert "sync --frozen --all-packages" in run("make", "-n", target, cwd=root).stdout, target


def test_bytecode_is_kept_even_where_the_environment_says_otherwise(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(TEXT + "\nshow:\n\t@echo [$${PYTHONDONTWRITEBYTECODE-unset}]\n")
    assert run("make", "show", cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"}).stdout == "[unset]\n"
