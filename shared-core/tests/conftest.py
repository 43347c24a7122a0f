"""What the tests of the core share."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared_core import logging as core_logging

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Run a piece of Python in a process of its own, in `tmp_path`."""

    def run(code: str, *arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        defaults = {"capture_output": True, "text": True, "timeout": 120, "cwd": tmp_path, "env": environment}
        return subprocess.run([sys.executable, "-c", code, *arguments], **(defaults | options))  # type: ignore[call-overload]

    return run


@pytest.fixture(autouse=True)
def _same_logging_afterwards() -> Iterator[None]:
    """`configure` changes the root logger; each test begins as the first one did."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], core_logging._quiet = handlers, False
    root.setLevel(level)
