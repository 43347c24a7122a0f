"""What a verb gives back: a table or JSON on stdout, and a run folder with rows, figures and result."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from shared_core.claims import format_value
from shared_core.files import jsonable, write_text
from shared_core.run_folder import RunFolder

PACKAGE = "sam-cnn"


def write_result(folder: RunFolder, result: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    """`rows.csv`, figures, and `result.json` last, which says that the run is done."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(result["rows"][0]))
    writer.writeheader()
    writer.writerows(result["rows"])
    write_text(folder.path / "rows.csv", text.getvalue())
    names = [folder.save_figure(name, figure) for name, figure in figures.items()]
    folder.write_json("result.json", {**result, "figures": names})


def show(result: Mapping[str, Any], title: str, as_json: bool) -> None:
    """Print a result: its scalars, then its `rows` as a table; or all of it as JSON."""
    if as_json:
        print(json.dumps(jsonable(result), indent=2, allow_nan=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a table in a pipe must not be folded to 80 columns
    for key, value in result.items():
        if key not in ("rows", "figures"):
            console.print(Text(f"{key.replace('_', ' ')}: {_shown(value)}"))
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    table = Table(title=title)
    for column, first in rows[0].items():
        table.add_column(column.replace("_", " "), justify="left" if isinstance(first, str) else "right")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    console.print(table)


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else format_value(value)
