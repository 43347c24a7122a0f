"""What verbs print on stdout."""

import json
from typing import Any

from shared_core.files import jsonable


def print_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_lines(values: dict[str, str]) -> None:
    """Name and text a line."""
    for name, text in values.items():
        print(f"{name:<10} {text}")


def print_numbers(values: dict[str, Any]) -> None:
    """Name and number a line."""
    for name, value in values.items():
        print(f"{name:<16} {value:,}" if isinstance(value, int) else f"{name:<16} {value:.3g}")
