"""kill -9 of the command itself, again and again, and the same command brings the run to the same end."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from spin_llm.cli import main

GIVEN = [
    "--iterations", "2", "--held-out", "4", "--limit", "20", "--lora-rank", "2", "--max-length", "24",
    "--max-prompt-length", "12", "--max-new-tokens", "6", "--generation-batch-size", "4", "--train-batch-size", "4",
    "--save-steps", "1", "--device", "cpu", "--mix-previous", "true", "--quiet",
]  # fmt: skip
MOMENTS = [
    "start.json", "iter_0/generated.parts/000002.json", "iter_0/opponent.safetensors", "iter_0/state.safetensors",
    "iter_0/model", "iter_1/generated.json", "iter_1/state.safetensors",
]  # fmt: skip


def killed_at(pid: int, moment: Path) -> bool:
    """Whether the process was still at work when a file appeared, at which it is killed."""
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if moment.exists():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
        time.sleep(0.0005)
    return False


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the forks have, or the bits would differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", sys.argv)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_after_kill_9_in_every_phase_the_run_ends_bit_for_bit_the_same(
    model_folder: Path, data_file: Path, tmp_path: Path, fork: Callable[..., int], one_thread: None
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def command(out: Path) -> int:
        sys.argv = ["spin-llm", "run", str(model_folder), str(data_file), *GIVEN, "--out", str(out)]
        return main()

    assert command(whole) == 0  # before the forks, so that all that is imported is imported once
    assert sum(killed_at(fork(lambda: command(parts)), parts / moment) for moment in MOMENTS) >= 4
    assert os.waitpid(fork(lambda: command(parts)), 0)[1] == 0
    left, right = (
        {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} for folder in (whole, parts)
    )
    assert left == right  # nothing half-written stays behind
    for name in sorted(left - {"config.yaml"}):
        if not name.endswith(".png"):
            assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
