"""Console messages, progress of long work, and the metrics file of a run.

Method code logs through the standard library (`logging.getLogger(__name__)`); `configure` decides how that looks:
rich on a terminal, plain lines in a pipe or a log file. Messages and progress go to stderr, results to stdout.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

from shared_core.files import jsonable, naming, write_text

T = TypeVar("T")
_quiet = False
log = logging.getLogger(__name__)


def configure(quiet: bool = False) -> None:
    """Send log messages of level INFO (WARNING when quiet) to stderr and set whether `progress` shows anything."""
    global _quiet
    _quiet = quiet
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(_console_handler() if sys.stderr.isatty() else _PlainHandler())
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    for chatty in ("httpx", "httpcore", "urllib3", "filelock", "matplotlib", "fsspec", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _PlainHandler(logging.Handler):
    """Plain lines to what `sys.stderr` is at that moment: it may be redirected, and closed, after `configure`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def _console_handler() -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    return RichHandler(console=Console(stderr=True), show_path=False, show_time=False, show_level=False)


def progress(items: Iterable[T], label: str, total: int | None = None, every_seconds: float = 10.0) -> Iterator[T]:
    """Iterate over `items`, showing a bar on a terminal and a plain line every `every_seconds` in a pipe.

    Args:
        items: what to iterate over.
        label: a few words naming the work.
        total: number of items where `len(items)` is not known.
        every_seconds: seconds between plain lines.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if _quiet:
        yield from items
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, label, total=total, console=Console(stderr=True), transient=True)
    else:
        yield from _plain_progress(items, label, total, every_seconds)


def _plain_progress(items: Iterable[T], label: str, total: int | None, every_seconds: float) -> Iterator[T]:
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_seconds:
            last = now
            log.info("%s: %s after %.0f s", label, f"{count}/{total}" if total else count, now - start)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, appended and flushed, rewindable to a step.

    A run that resumes at step k first calls `rewind(k)`, so that lines written after the last checkpoint and before
    the interruption do not appear twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._whole = False

    def write(self, step: int, **values: Any) -> None:
        """Append `{"step": step, **values}`."""
        line = json.dumps(jsonable({"step": step, **values}), ensure_ascii=False, allow_nan=False)
        if not self._whole and self.path.exists():
            self.rewind()  # a line cut short by a kill must not swallow this one
        self._whole = True
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; a last line cut short by a kill is left out."""
        if not self.path.exists():
            return []
        rows = []
        # split("\n"), not splitlines(): a value may hold other line separators
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def rewind(self, step: float = math.inf) -> None:
        """Drop every line with a step beyond `step`, and one that a kill cut short."""
        rows = [row for row in self.read() if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
