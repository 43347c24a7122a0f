"""Files that appear whole or not at all, what JSON can hold, and numpy files without objects."""

import errno
import json
import math
import os
import pickle
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_core import InputError
from shared_core.files import atomic_path, jsonable, read_numpy, write_json, write_text


def test_a_file_is_replaced_whole_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "données.txt"
    write_text(path, "one")
    write_text(path, "two\n")
    assert path.read_text(encoding="utf-8") == "two\n"
    assert [item.name for item in path.parent.iterdir()] == ["données.txt"]
    beside = tmp_path / "beside"
    beside.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(beside.stat().st_mode)


@pytest.mark.parametrize("interruption", [ValueError("in the middle"), KeyboardInterrupt()])
def test_an_exception_in_the_middle_leaves_the_old_file_and_no_part_file(
    tmp_path: Path, interruption: BaseException
) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as aside:
            aside.write_text("half of the n")
            raise interruption

    with pytest.raises(type(interruption)):
        interrupted()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


def test_a_kill_in_the_middle_leaves_the_old_file(
    tmp_path: Path, python: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    killed = python(
        "import os, signal\nfrom shared_core.files import atomic_path\n"
        "with atomic_path('result.json') as aside:\n"
        "    aside.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert killed.returncode == -9
    assert path.read_text() == "old"


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, python: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    pytest.importorskip("resource", reason="file size limits are POSIX")
    write_text(tmp_path / "big.json", "old")
    full = python(
        "import resource, sys\nfrom shared_core.files import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    write_text('big.json', 'x' * 10000)\n"
        "except OSError as error:\n    print(error.filename, error.errno)\n"
    )
    assert full.stdout.split() == ["big.json", str(errno.EFBIG)], full.stderr
    assert (tmp_path / "big.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["big.json"]  # noqa: PTH208 - one name


def test_a_path_that_cannot_be_written_is_named_and_not_its_part_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as failure:
        write_text(tmp_path / "file" / "x.json", "")
    assert ".part" not in str(failure.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as failure:
        write_text(tmp_path / "folder", "")
    assert failure.value.filename == str(tmp_path / "folder")


@dataclass
class _Options:
    rate: float
    sizes: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (np.float32(0.5), 0.5),
        (np.float64(np.nan), "nan"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, np.inf]]), [[1.0, "inf"]]),
        (torch.tensor(2), 2),
        (torch.tensor([0.5, torch.nan], requires_grad=True), [0.5, "nan"]),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (Path("a/b"), "a/b"),
        ((1, (2,)), [1, [2]]),
        ({"b", "a"}, ["a", "b"]),
        ({1: None, "x": True}, {"1": None, "x": True}),
        (_Options(0.1, (1, 2)), {"rate": 0.1, "sizes": [1, 2]}),
        (torch.device("cpu"), "cpu"),
    ],
)
def test_values_become_what_json_can_hold(tmp_path: Path, value: object, expected: object) -> None:
    assert jsonable(value) == expected
    write_json(tmp_path / "value.json", {"value": value})
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == {"value": expected}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
@settings(max_examples=60, deadline=None)
def test_what_is_jsonable_survives_json_and_is_its_own_form(value: object) -> None:
    once = jsonable(value)
    assert json.loads(json.dumps(once, allow_nan=False)) == once
    assert jsonable(once) == once


def test_numpy_files_are_read_without_objects(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "more.npz", x=np.zeros(2), y=np.ones(1))
    assert read_numpy(tmp_path / "one.npy").tolist() == [0, 1, 2]
    assert sorted(read_numpy(tmp_path / "more.npz")) == ["x", "y"]
    with pytest.raises(FileNotFoundError):
        read_numpy(tmp_path / "no.npy")


@pytest.mark.parametrize("name", ["empty.npy", "junk.npz", "cut.npz", "objects.npy", "objects.npz", "pickle.npy"])
def test_a_broken_numpy_file_or_one_of_objects_is_one_line_that_does_not_advise_to_unpickle(
    tmp_path: Path, name: str
) -> None:
    path, objects = tmp_path / name, np.array([{}], dtype=object)
    kind = path.stem
    if kind == "objects":
        np.save(path, objects) if path.suffix == ".npy" else np.savez(path, x=objects)
    elif kind == "cut":
        np.savez(path, x=np.zeros(100))
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_bytes({"empty": b"", "junk": b"no zip", "pickle": pickle.dumps({"x": 1})}[kind])
    with pytest.raises(InputError, match=re.escape(f"{path} is no .npy or .npz file of plain arrays")) as caught:
        read_numpy(path)
    assert "allow_pickle" not in str(caught.value)
