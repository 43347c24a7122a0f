"""Files that appear whole or not at all, and numpy files without objects."""

import dataclasses
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared_core.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    The data is flushed to disk before the rename, so that a crash leaves the old file or the new one, never a part.

    Raises:
        OSError: if the folder cannot be written, or the disk is full (`path` is then as it was).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    os.close(handle)
    aside = Path(name)
    try:
        with naming(target):
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            # mkstemp makes private files; a result should be as readable as any file the user writes.
            aside.chmod(0o666 & ~_umask())
            aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` that names no file (a full disk) or only the part file name `path`, which the user knows."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        if not nameless and not str(error.filename).endswith(".part"):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes that name on success and vanishes on failure.

    An older folder of that name is replaced: it was written by the same step before an interruption.

    Raises:
        OSError: if the folder cannot be written, or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".", suffix=".part"))
    try:
        with naming(folder):
            yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        aside.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Infinities and NaN become strings: JSON has no word for them."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """Turn numpy and torch values, dataclasses, paths, sets and non-finite floats into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # the same order in every process
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)


def read_numpy(path: str | Path) -> Any:
    """The array of an `.npy` file, or the arrays of an `.npz` by name. Objects are refused: reading them runs code.

    Raises:
        InputError: if it is neither, is broken, or holds objects.
        OSError: if there is no such file or it may not be read.
    """
    import numpy as np

    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return {name: content[name] for name in content.files}
    except Exception as error:  # numpy and zipfile raise many kinds for a broken file; numpy's words advise to unpickle
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise InputError(f"{path} is no .npy or .npz file of plain arrays (objects are refused)") from error
