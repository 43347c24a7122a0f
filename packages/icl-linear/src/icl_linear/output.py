"""What a verb gives back: a table or JSON on stdout, and with --out a run folder with rows, figure and result."""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from shared_core.claims import format_value
from shared_core.files import jsonable, write_text
from shared_core.run_folder import RunFolder

PACKAGE = "icl-linear"
log = logging.getLogger(__name__)


def emit(
    verb: str,
    result: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    figures: Mapping[str, Figure],
    out: str | None,
    as_json: bool,
    folder: RunFolder | None = None,
    tables: Mapping[str, str] | None = None,
) -> None:
    """Print `result` (its `rows` as the table), and write it into the folder `out` where one is named.

    Args:
        verb: for the title and the folder's settings.
        result: with `rows`, a list of mappings with the same keys, and whatever else was found.
        settings: everything that determines the result.
        figures: name to figure.
        out: folder, or None to print only.
        as_json: print JSON instead of a table.
        folder: an open run folder to write into instead of `out`.
        tables: more text files for the folder, name to content.
    """
    if folder is not None:
        _write(folder, result, figures)
    elif out is not None:
        with RunFolder(out, package=PACKAGE, settings={"verb": verb, **settings}) as opened:
            _write(opened, result, figures)
            for name, text in (tables or {}).items():
                write_text(opened.path / name, text)
    if as_json:
        print(json.dumps(jsonable(result), indent=2, allow_nan=False))
    else:
        print_table(result, verb)


def _write(folder: RunFolder, result: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    rows = result["rows"]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder.path / "rows.csv", text.getvalue())
    names = [folder.save_figure(name, figure) for name, figure in figures.items()]
    folder.write_json("result.json", {**result, "figures": names})
    log.info("written to %s", folder.path)


def print_table(result: Mapping[str, Any], title: str) -> None:
    """Print the scalars of a result, then its rows."""
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
        table = Table(title=title)
        for column in rows[0]:
            table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
        for row in rows:
            table.add_row(*(Text(_shown(value)) for value in row.values()))
        console.print(table)
    for note in result.get("notes", ()):
        console.print(Text(f"note: {note}"))


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format_value(value)
