"""What a verb gives back: a table or JSON on stdout; with --out a folder with result.json, rows.csv and figures."""

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from shared_core.claims import format_value
from shared_core.errors import InputError
from shared_core.files import jsonable, write_text
from shared_core.run_folder import RunFolder, run_path

PACKAGE = "ctmc-bounds"
log = logging.getLogger(__name__)


@contextmanager
def run_folder(
    verb: str, settings: Mapping[str, Any], out: str | None, *, default: bool = False
) -> Iterator[RunFolder | None]:
    """The run folder `out`, held while a verb works; None without one.

    Opened first, so that nothing is computed for a folder that will not take it. A run that is refused before it has
    written anything leaves no trace: the folder stays free for the mended command.

    Args:
        verb: for the folder's settings.
        settings: everything that determines the result.
        out: the folder, or None.
        default: whether None is the default folder instead of no folder.

    Raises:
        InputError: if the folder holds another run.
    """
    if out is None and not default:
        yield None
        return
    settings = {"verb": verb, **settings}
    path = run_path(out, package=PACKAGE, settings=settings)
    refused = False
    before = path.exists()
    with RunFolder(path, package=PACKAGE, settings=settings) as folder:
        try:
            yield folder
        except InputError:
            held = {item.name for item in path.iterdir()}
            refused = not folder.resumed and held <= {"config.yaml", ".lock"}
            if refused:
                (path / "config.yaml").unlink()
            raise
        finally:
            folder.close()
            if refused:
                (path / ".lock").unlink(missing_ok=True)
                if not before:
                    path.rmdir()


def emit(
    title: str,
    result: Mapping[str, Any],
    figures: Mapping[str, Figure],
    folder: RunFolder | None,
    as_json: bool,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Print `result` (its `rows` as the table) and write it into `folder`.

    Args:
        title: of the table.
        result: with `rows`, a list of mappings, scalars, and `notes`, a list of sentences.
        figures: name to figure.
        folder: an open run folder, or None to print only.
        as_json: print JSON instead of a table.
        write_more: called with the folder's path.
    """
    if folder is not None:
        _write(folder, result, figures, write_more)
    if as_json:
        print(json.dumps(jsonable(result), indent=2, allow_nan=False))
    else:
        _print(result, title)


def _write(
    folder: RunFolder,
    result: Mapping[str, Any],
    figures: Mapping[str, Figure],
    write_more: Callable[[Path], None] | None,
) -> None:
    if write_more is not None:
        write_more(folder.path)
    write_text(folder.path / "rows.csv", to_csv(result["rows"]))
    names = [folder.save_figure(name, figure) for name, figure in figures.items()]
    folder.write_json("result.json", {**result, "figures": names})
    log.info("written to %s", folder.path)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as csv; the columns are those of all rows in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print(result: Mapping[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a table in a pipe must not be folded to 80 columns
    for key, value in result.items():
        if key not in ("rows", "notes"):
            console.print(Text(f"{key.replace('_', ' ')}: {_shown(value)}"))
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = Table(title=title)
        for column in columns:
            number = not any(isinstance(row.get(column), str) for row in rows)
            table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_shown(row.get(column))) for column in columns))
        console.print(table)
    for note in result.get("notes", ()):
        console.print(Text(f"note: {note}"))


def _shown(value: Any) -> str:
    if value == []:
        return "none"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return format_value(value)
