"""Every command answers help, version and nonsense alike, and quickly."""

import resource
from collections.abc import Callable
from typing import Any

import pytest

COMMON = ("--scale", "--claims", "--out", "--seed", "--device", "--quiet", "--debug", "--config", "--print_config")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_in_under_a_second(package: Any, run: Callable[..., Any], flag: str) -> None:
    seconds = []
    for _ in range(3):
        before = _processor_seconds()
        answer = run(package.command, flag)
        seconds.append(_processor_seconds() - before)
        assert (answer.returncode, answer.stderr) == (0, "")
    assert min(seconds) < 0.5  # of the processor's time, so that other work on the machine is no failure
    if flag == "--version":
        assert answer.stdout == f"{package.name} {package.project['version']}\n"
    else:
        assert "reproduce" in _verbs(answer.stdout)


def test_an_unknown_verb_is_one_line_that_lists_the_verbs(package: Any, run: Callable[..., Any]) -> None:
    answer = run(package.command, "no-such-verb")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    assert "'no-such-verb'" in answer.stderr
    assert "reproduce" in answer.stderr


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_every_verb_explains_itself_and_the_overview_needs_no_torch(
    package: Any, calls: Callable[..., list[dict[str, Any]]]
) -> None:
    (overview,) = calls(package, ["--help"])
    assert "torch" not in overview["loaded"], "import torch inside the verbs, not in cli.py or __init__.py"
    verbs = _verbs(overview["out"])
    answers = dict(zip(verbs, calls(package, *([verb, "--help"] for verb in verbs)), strict=True))
    for verb, answer in answers.items():
        assert (answer["code"], answer["err"]) == (0, ""), verb
        assert answer["out"].startswith(f"usage: {package.name} {verb} "), verb
        assert verbs[verb], f"{verb} has no docstring"
    assert [option for option in COMMON if option not in answers["reproduce"]["out"]] == []


def _verbs(overview: str) -> dict[str, str]:
    """The verbs in what `NAME --help` prints, with their first line."""
    lines = overview.split("verbs:\n")[1].split("\n\n")[0].splitlines()
    return {words[0]: words[1] if len(words) > 1 else "" for words in (line.split(maxsplit=1) for line in lines)}
