"""What a verb prints: tables, or JSON."""

from collections.abc import Sequence
from typing import Any


def print_json(values: Any) -> None:
    """Print plain data as JSON on stdout."""
    import json

    from shared_core.files import jsonable

    print(json.dumps(jsonable(values), indent=2, allow_nan=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(header):
        table.add_column(column, overflow="fold", justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
