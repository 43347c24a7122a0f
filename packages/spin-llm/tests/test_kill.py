"""kill -9 of the command itself, again and again, and the same command brings the run to the same end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from spin_llm import cli

model, data, folder = sys.argv[1:]
given = ["spin-llm", "run", model, data, "--iterations", "2", "--held-out", "4", "--lora-rank", "2",
    "--max-length", "24", "--max-prompt-length", "12", "--max-new-tokens", "6", "--generation-batch-size", "4",
    "--train-batch-size", "4", "--save-steps", "1", "--device", "cpu", "--mix-previous", "true"]

def play(out):
    sys.argv = [*given, "--out", str(out), "--quiet"]
    return cli.main()

def child(out):
    pid = os.fork()
    if pid == 0:
        os._exit(play(out))
    return pid

whole, parts = Path(folder) / "whole", Path(folder) / "parts"
assert play(whole) == 0  # before the forks, so that all that is imported is imported once
moments = ["start.json", "iter_0/generated.parts/000002.json", "iter_0/opponent.safetensors",
    "iter_0/state.safetensors", "iter_0/model", "iter_1/generated.json", "iter_1/state.safetensors"]
killed = 0
for moment in moments:
    pid = child(parts)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if (parts / moment).exists():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
            break
        time.sleep(0.0005)
assert os.waitpid(child(parts), 0)[1] == 0
print(killed)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, so that torch is imported once")
def test_after_kill_9_in_every_phase_the_run_ends_bit_for_bit_the_same(
    model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(model_folder), str(data_file), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 4, done.stdout
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    left, right = (
        {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} for folder in (whole, parts)
    )
    assert left == right  # nothing half-written stays behind
    for name in sorted(left - {"config.yaml"}):
        if not name.endswith(".png"):
            assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
