"""Every verb that reads a file answers a path it cannot use with one line that names it, and leaves nothing behind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# positional arguments that are no paths: a question to ask, a condition such as "ICD9:250", a generator's task
NO_PATHS = {"question", "condition", "task"}
# what a verb asks for before it looks at its files
ASKED = {("parity-sgd", "fit"): ["--k", "3"]}


def _verbs(package: Any, calls: Callable[..., list[dict[str, Any]]]) -> dict[str, list[str]]:
    """The verbs that read files, with their positional arguments in order."""
    (overview,) = calls(package, ["--help"])
    lines = overview["out"].split("verbs:\n")[1].split("\n\n")[0].splitlines()
    verbs = [line.split()[0] for line in lines]
    found = {}
    for verb, answer in zip(verbs, calls(package, *([verb, "--help"] for verb in verbs)), strict=True):
        usage = answer["out"].split("\n\n")[0]
        names = re.findall(r"(?<=\s)([a-z_]+)(?=\s|$)", usage.removeprefix(f"usage: {package.name} {verb}"))
        if set(names) - NO_PATHS:
            found[verb] = names
    return found


@pytest.fixture(scope="session")
def bad_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad é")
    (folder / "empty").touch()
    (folder / "empty.csv").touch()
    (folder / "empty.jsonl").touch()
    (folder / "empty.parquet").touch()
    (folder / "folder").mkdir()
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 8)
    (folder / "noise.json").write_bytes(bytes(range(255, -1, -1)) * 8)
    return {"missing": folder / "not there"} | {path.name: path for path in sorted(folder.iterdir())}


def test_a_path_that_cannot_be_used_is_named(
    package: Any, calls: Callable[..., list[dict[str, Any]]], bad_paths: dict[str, Path], tmp_path: Path
) -> None:
    commands = {
        (verb, name): [
            *(verb, *("x" if part in NO_PATHS else str(path) for part in parts)),
            *ASKED.get((package.name, verb), []),
        ]
        for verb, parts in _verbs(package, calls).items()
        for name, path in bad_paths.items()
    }
    answers = calls(package, *commands.values(), cwd=tmp_path) if commands else []
    faults = []
    for (verb, name), answer in zip(commands, answers, strict=True):
        # a line of information (which device) may stand before the one that says what is wrong
        complaint = (answer["err"].splitlines() or [""])[-1]
        named = complaint.startswith(f"{package.name} {verb}: ") and bad_paths[name].name in complaint
        if answer["code"] != 2 or answer["out"] or not named or "Traceback" in answer["err"]:
            faults.append(f"{verb} {name}: exit {answer['code']}, {answer['out'][:80]!r} {answer['err'][:300]!r}")
    assert not faults, "\n".join(faults)
    assert not list(tmp_path.iterdir()), "a refused command left something behind"
