"""Messages, progress and the metrics file."""

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shared_core import logging as core_logging
from shared_core.logging import MetricsLog, configure, progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_metrics_are_appended_and_read_back(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    assert metrics.read() == []
    metrics.write(1, loss=0.5, note="é\u2028x")  # a line separator inside a value is not the end of a line
    metrics.write(2, loss=np.float32(np.inf))
    expected = [{"step": 1, "loss": 0.5, "note": "é\u2028x"}, {"step": 2, "loss": "inf"}]
    assert metrics.read() == expected
    assert MetricsLog(metrics.path).read() == expected


def test_rewinding_drops_what_came_after_the_step(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    metrics.rewind(0)  # a run killed before its first line
    for step in range(5):
        metrics.write(step)
    metrics.rewind(2)
    metrics.write(3, again=True)
    assert metrics.read() == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]


@pytest.mark.parametrize("cut", ['{"step": 2, "lo', '{"step": 2, "é'.encode()[:-1].decode("latin-1"), "{"])
def test_a_last_line_cut_by_a_kill_is_left_out_and_swallows_nothing(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + cut.encode("latin-1"))
    metrics = MetricsLog(path)
    assert metrics.read() == [{"step": 1}]
    metrics.write(2)
    metrics.write(3)
    assert metrics.read() == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_progress_in_a_pipe_is_plain_lines_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    assert list(progress("abc", "reading", every_seconds=0)) == ["a", "b", "c"]
    assert list(progress(iter("ab"), "streaming", every_seconds=0)) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"reading: {count}/3 after 0 s" for count in (1, 2, 3)]
    assert lines[3:] == [f"streaming: {count} after 0 s" for count in (1, 2)]
    assert list(progress(range(3), "quick")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    configure()
    assert list(progress(range(3), "training")) == [0, 1, 2]
    assert "training" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_quiet_shows_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure(quiet=True)
    logging.getLogger("package.module").info("detail")
    logging.getLogger("package.module").warning("careful")
    assert list(progress(range(2), "work", every_seconds=0)) == [0, 1]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "careful\n")


def test_messages_go_to_stderr_as_plain_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    configure()  # a second verb in one process does not print everything twice
    logging.getLogger("package").info("[bold]as it is[/bold]")
    logging.getLogger("httpx").info("chatter")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "[bold]as it is[/bold]\n")


def test_messages_follow_stderr_when_it_is_redirected_later(monkeypatch: pytest.MonkeyPatch) -> None:
    configure()
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    core_logging.log.info("one")
    monkeypatch.setattr(sys, "stderr", second)
    first.close()
    core_logging.log.info("two")
    assert second.getvalue() == "two\n"


def test_messages_on_a_terminal_show_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure()
    core_logging.log.info("shape [3, 4] of [bold]x[/bold]")
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).rstrip() == "shape [3, 4] of [bold]x[/bold]"


def test_importing_the_core_is_quick_and_imports_neither_torch_nor_rich(
    python: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    modules = ("cli", "errors", "files", "logging", "device", "run_folder", "claims", "report", "benchmark")
    code = (
        "import sys, time; start = time.process_time(); import shared_core; print(time.process_time() - start)\n"
        + "".join(f"import shared_core.{name}\n" for name in modules)
        + "print(time.process_time() - start)\n"
        + "print([name for name in ('torch', 'rich', 'numpy', 'jsonargparse', 'jinja2') if name in sys.modules])\n"
    )
    runs = [python(code).stdout.splitlines() for _ in range(5)]
    assert {run[2] for run in runs} == {"[]"}
    assert min(float(run[0]) for run in runs) < 0.05
    assert min(float(run[1]) for run in runs) < 0.25  # all of it; about 40 ms of processor time
