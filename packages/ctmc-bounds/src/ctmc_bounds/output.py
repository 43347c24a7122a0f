"""What a verb gives back: a table or JSON on stdout; with --out a folder with result.json, rows.csv and figures."""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from shared_core.claims import format_value
from shared_core.files import jsonable, write_text
from shared_core.run_folder import RunFolder

PACKAGE = "ctmc-bounds"
log = logging.getLogger(__name__)


def open_folder(verb: str, settings: Mapping[str, Any], out: str | None) -> RunFolder | None:
    """The run folder of `--out`, or None; refuses a folder of another run before any work is done."""
    return None if out is None else RunFolder(Path(out), package=PACKAGE, settings={"verb": verb, **settings})


def emit(
    title: str, result: Mapping[str, Any], figures: Mapping[str, Figure], folder: RunFolder | None, as_json: bool
) -> None:
    """Print `result` (its `rows` as the table) and write it into `folder`.

    Args:
        title: of the table.
        result: with `rows`, a list of mappings, scalars, and `notes`, a list of sentences.
        figures: name to figure.
        folder: open run folder, or None to print only.
        as_json: print JSON instead of a table.
    """
    if folder is not None:
        write_text(folder.path / "rows.csv", to_csv(result["rows"]))
        names = [folder.save_figure(name, figure) for name, figure in figures.items()]
        folder.write_json("result.json", {**result, "figures": names})
        log.info("written to %s", folder.path)
    if as_json:
        print(json.dumps(jsonable(result), indent=2, allow_nan=False))
    else:
        _print(result, title)


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
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return format_value(value)
