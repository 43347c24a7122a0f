"""The append-only record of every call: kill it anywhere, open it again, nothing paid is lost."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from shared_core.errors import InputError, RunError
from shared_core.files import naming

KEY_DIGITS = 32
_HEAD = b'{"key": "'
_OK = b'", "status": "ok"'


class Journal:
    """One JSON object a line, each written whole by one system call; only calls that succeeded can be looked up.

    Lines begin with the key and the status, so that opening a journal of 100,000 calls reads no JSON. A last line cut
    short by a kill is removed when the journal is opened. One process at a time may hold a journal.

    Args:
        path: the file, made if missing.

    Raises:
        InputError: if another process holds it, or a whole line is no record.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"another run is writing into {self.path}; wait for it or use another folder") from None
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._places: dict[bytes, tuple[int, int]] = {}
        self._size = 0
        try:
            self._index()
        except BaseException:
            self.close()
            raise

    def _index(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.ftruncate(self._file, end)
        place = number = 0
        while place < end:
            number += 1
            stop = content.index(b"\n", place) + 1
            key = content[place + len(_HEAD) : place + len(_HEAD) + KEY_DIGITS]
            if not content.startswith(_HEAD, place) or len(key) < KEY_DIGITS:
                raise InputError(f"{self.path}, line {number}: not a record of a call")
            if content.startswith(_OK, place + len(_HEAD) + KEY_DIGITS):
                self._places[key] = (place, stop - place)
            place = stop
        self._size = end

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._places

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a call that succeeded, or None."""
        place = self._places.get(key.encode())
        return None if place is None else json.loads(os.pread(self._file, place[1], place[0]))

    def append(self, key: str, status: str, **values: Any) -> None:
        """Write one record; `status` is `ok`, `started`, `failed`, `truncated` or `empty`.

        Raises:
            RunError: if the disk takes no more; what was written before stays whole.
        """
        line = json.dumps({"key": key, "status": status, **values}, ensure_ascii=False).encode() + b"\n"
        try:
            with naming(self.path):
                written = os.write(self._file, line)
        except OSError as error:
            raise RunError(f"{self.path}: {error.strerror}; what was finished is kept") from error
        if written < len(line):
            os.ftruncate(self._file, self._size)
            raise RunError(f"{self.path}: the disk is full; what was finished is kept")
        if status == "ok":
            self._places[key.encode()] = (self._size, len(line))
        self._size += len(line)

    def records(self) -> Iterator[dict[str, Any]]:
        """Every record in the order of writing."""
        with self.path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def close(self) -> None:
        """Flush to disk and let others write."""
        try:
            os.fsync(self._file)
            os.close(self._file)
        finally:
            self._lock.release()
