"""What `NAME reproduce` does when it is interrupted, killed, or has nowhere to write."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def cheapest(package: Any, smoke: Callable[[Any], Path]) -> list[dict[str, Any]]:
    """The claims, those that are measured soonest first."""
    result = json.loads((smoke(package) / "smoke é 1" / "result.json").read_text(encoding="utf-8"))
    return sorted(result["claims"], key=lambda claim: claim["seconds"])


def _finished(folder: Path) -> dict[str, float]:
    """Claims that are measured, with the seconds they took."""
    return {path.stem: json.loads(path.read_text())["seconds"] for path in sorted(folder.glob("claims/*.json"))}


def _stop_after(count: int, command: list[str], folder: Path, how: signal.Signals, env: dict[str, str]) -> Any:
    """Run a command, stop it as soon as `count` claims are measured (it may be quicker), and return it."""
    process = subprocess.Popen(command, env=env, cwd=folder.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(_finished(folder)) < count:
        time.sleep(0.02)
    process.send_signal(how)
    process.err = process.communicate(timeout=120)[1].decode()  # type: ignore[attr-defined]
    return process


def test_an_interrupted_and_then_killed_run_goes_on(
    package: Any,
    environment: dict[str, str],
    run: Callable[..., Any],
    cheapest: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run é"
    three = ",".join(claim["id"] for claim in cheapest[:3])
    command = [package.command, "reproduce", "--scale", "smoke", "--claims", three, "--out", str(folder)]
    first = _stop_after(1, command, folder, signal.SIGINT, environment)
    kept = _finished(folder)
    assert kept
    if first.returncode not in (0, 1):
        assert first.returncode == 130, first.err
        assert "the same command goes on" in first.err.splitlines()[-1]
    second = _stop_after(len(kept) + 1, command, folder, signal.SIGKILL, environment)
    assert second.returncode in (0, 1, -signal.SIGKILL), second.err
    kept = _finished(folder)
    last = run(*command)
    assert last.returncode in (0, 1), last.stderr
    result = json.loads((folder / "result.json").read_text())
    assert {claim["id"] for claim in result["claims"]} == set(_finished(folder)) >= set(kept)
    assert {id: seconds for id, seconds in _finished(folder).items() if id in kept} == kept, "measured twice"
    assert not list(folder.rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system too small for a figure."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    package: Any, run: Callable[..., Any], cheapest: list[dict[str, Any]], small_disk: Path
) -> None:
    drawn = next(claim["id"] for claim in cheapest if claim.get("figures"))
    command = [package.command, "reproduce", "--scale", "smoke", "--claims", drawn, "--out", small_disk / "run"]
    full = run(*command)
    assert full.returncode == 1, full.stderr
    assert "No space left on device" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert not (small_disk / "run" / "result.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert run(*command).returncode in (0, 1)
    assert not list(small_disk.rglob("*.part"))


def test_a_read_only_folder_is_bad_input(package: Any, run: Callable[..., Any], small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    answer = run(package.command, "reproduce", "--scale", "smoke", "--out", small_disk / "run")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    assert "Read-only file system" in answer.stderr
    assert str(small_disk) in answer.stderr
