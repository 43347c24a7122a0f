"""Where the public transcripts are, and a server that misbehaves on request."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def transcripts():
    """The folder of public transcripts: RAR_TRANSCRIPTS, or ../shared/data/rar beside the repository."""
    given = os.environ.get("RAR_TRANSCRIPTS")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data" / "rar"
    if not given and not folder.is_dir():  # a worktree lies one level deeper
        folder = REPOSITORY.parent.parent / "shared" / "data" / "rar"
    if not folder.is_dir():
        pytest.skip("no transcripts: set RAR_TRANSCRIPTS to a checkout of uclaml/Rephrase-and-Respond")
    return folder


class Loopback:
    """The misbehaving server of `benchmarks/loopback.py` in a process of its own."""

    def __init__(self, *options, log=None):
        script = Path(__file__).parents[1] / "benchmarks" / "loopback.py"
        command = [sys.executable, str(script), *map(str, options), *(["--log", str(log)] if log else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}/v1"
        self.log = log

    def served(self):
        """Every whole reply that left the server: what was paid."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def stats(self):
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats") as answer:
            return json.load(answer)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def loopback(tmp_path):
    """`loopback("--faults", "429,500", ...)` starts a server; all end with the test."""
    started = []

    def start(*options):
        started.append(Loopback(*options, log=tmp_path / f"served-{len(started)}.jsonl"))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder and return (code, out, err)."""
    from rar_prompt.cli import main

    monkeypatch.chdir(tmp_path)

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["rar-prompt", *map(str, arguments)])
        code = main()
        out, err = capsys.readouterr()
        return code, out, err

    return go
