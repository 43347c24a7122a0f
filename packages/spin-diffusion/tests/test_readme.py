"""What the README prints is run as it is printed: the commands that try the toy, then every block of Python."""

import re
import shlex
from pathlib import Path
from typing import Any

import torch

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```", README)


def test_the_toy_and_all_python(spin: Any, tmp_path: Path) -> None:
    first = blocks("")[1].replace("\\\n", " ").splitlines()
    assert [line.split()[1] for line in first] == ["toy", "run", "sample"]
    for line in first:
        code, _, err = spin(*shlex.split(line)[1:], "--quiet")
        assert code == 0, err
    python = blocks("python")
    assert len(python) == 3
    torch.manual_seed(0)
    for block in python:
        names: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), names)
    assert list((tmp_path / "toy" / "player" / "unet").glob("*.safetensors"))
