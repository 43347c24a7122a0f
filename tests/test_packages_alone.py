"""Each wheel, installed alone in an empty environment from a folder of wheels, is the whole package."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _answer(folder: Path, name: str) -> dict[str, Any]:
    answer = json.loads((folder / f"{name}.json").read_text())
    assert answer["code"] == 0, answer["err"]
    return answer


def test_the_version_is_the_projects(package: Any, smoke: Callable[[Any], Path]) -> None:
    assert _answer(smoke(package), "version")["out"] == f"{package.name} {package.project['version']}\n"


def test_the_public_api_can_be_imported(package: Any, smoke: Callable[[Any], Path]) -> None:
    assert int(_answer(smoke(package), "api")["out"]) > 0, f"{package.module}.__all__ is empty"


def test_what_is_installed_is_what_was_asked_for_and_no_other_package(
    package: Any, smoke: Callable[[Any], Path], packages: list[Any]
) -> None:
    installed = {canonicalize_name(name) for name in _answer(smoke(package), "distributions")["out"].split()}
    asked = {canonicalize_name(Requirement(line).name) for line in package.project["dependencies"]}
    assert asked | {package.name, "shared-core"} <= installed
    assert installed & {other.name for other in packages} == {package.name}
    assert not installed & {"pytest", "ruff", "mypy", "hypothesis"}, "a development tool is a dependency"


def test_the_smoke_reproduction_runs(package: Any, smoke: Callable[[Any], Path]) -> None:
    answer = json.loads((smoke(package) / "reproduce.json").read_text())
    assert answer["code"] in (0, 1), answer["err"]
    assert "Traceback" not in answer["err"]


def test_the_wheel_holds_the_package_and_nothing_else(package: Any, wheels: Path) -> None:
    (wheel,) = wheels.glob(f"{package.module}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert f"{package.module}/py.typed" in names
    assert {name.split("/")[0] for name in names} == {package.module, names[-1].split("/")[0]}
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|/tests?/|\.ipynb", name)]
    assert wheel.stat().st_size < 5_000_000
    for field in ("License-Expression: MIT", "Requires-Python: >=3.11", "Description-Content-Type: text/markdown"):
        assert field in metadata
