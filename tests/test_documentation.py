"""What READMEs and recipes tell people to type is understood: every option exists and takes what is given."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ABOUT = {"paper", "arxiv", "method", "first", "claim", "headline", "speed"}
LAUNCHED = re.compile(r"^accelerate launch (?:--\S+ (?!-m))*?(?:--\S+ )*-m (\w+) ")


def _commands(text: str, package: Any) -> Iterator[list[str]]:
    """Arguments of every command of the package in a text, in the order of the text."""
    for line in text.replace("\\\n", " ").splitlines():
        bare = re.sub(r"^# .*?`(?=[a-z])|^# ", "", line)
        started = LAUNCHED.sub(lambda found: found[1].replace("_", "-") + " ", bare)
        for part in started.partition("`")[0].split(" && "):
            if part.startswith(package.name + " "):
                # what is told in brackets after a command is none of it
                yield shlex.split(re.split(r"\s+\(", part)[0], comments=True)[1:]


def _refused(package: Any, calls: Callable[..., list[dict[str, Any]]], commands: list[list[str]]) -> list[str]:
    checked = [command for command in commands if command and not command[0].startswith("-")]
    answers = calls(package, *([*command, "--print_config"] for command in checked))
    return [
        f"{' '.join(command)}: {answer['err'].strip()[:300]}"
        for command, answer in zip(checked, answers, strict=True)
        if answer["code"]
    ]


def test_every_command_of_the_readme_is_understood(
    package: Any, calls: Callable[..., list[dict[str, Any]]], root: Path
) -> None:
    pages = [package.folder / "README.md", root / "README.md"]
    blocks = [block for page in pages for block in re.findall(r"(?ms)^```\w*\n(.*?)^```", page.read_text("utf-8"))]
    commands = [command for block in blocks for command in _commands(block, package)]
    assert commands, "the README shows no command"
    assert not _refused(package, calls, commands)


def test_every_recipe_is_a_configuration_of_the_command_that_it_names(
    package: Any, calls: Callable[..., list[dict[str, Any]]]
) -> None:
    recipes = sorted((package.folder / "recipes").glob("*.yaml"))
    commands = []
    for path in recipes:
        named = [command for command in _commands(path.read_text("utf-8"), package) if path.name in " ".join(command)]
        assert named, f"{path.name} does not say which command it is for"
        commands += [[str(path) if part.endswith(path.name) else part for part in named[0]]]
    assert not _refused(package, calls, commands)


def test_the_tables_are_what_was_measured(root: Path) -> None:
    check = [sys.executable, str(root / "tools" / "readmes.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_page_can_show_it(package: Any, calls: Callable[..., list[dict[str, Any]]]) -> None:
    about = tomllib.loads((package.folder / "pyproject.toml").read_text("utf-8"))["tool"]["collection"]
    assert set(about) - {"missed", "goals", "slower"} == ABOUT
    assert not _refused(package, calls, list(_commands(about["first"], package)))
