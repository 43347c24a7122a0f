"""The public names of every package explain themselves, and say which errors they raise."""

import importlib
import inspect
import re
from dataclasses import is_dataclass
from typing import Any


def _own_methods(cls: type) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(cls).items() if inspect.isfunction(value) and name[0] != "_"]


def _silent_errors(function: Any, text: str) -> list[str]:
    raised = re.findall(r"^\s+raise (\w+)\(", inspect.getsource(function), re.MULTILINE)
    return [f"raises {error} and does not say so" for error in sorted(set(raised)) if error not in text]


def _faults(name: str, value: Any) -> list[str]:
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return []
    text = inspect.getdoc(value) or ""
    if not text:
        return [f"{name}: no docstring"]
    if inspect.isfunction(value):
        return [f"{name}: {fault}" for fault in _silent_errors(value, text)]
    if getattr(value, "_is_protocol", False):  # typing's own __init__ refuses to be called
        return []
    made = vars(value).get("__post_init__" if is_dataclass(value) else "__init__")
    faults = [f"{name}: {fault}" for fault in _silent_errors(made, text)] if inspect.isfunction(made) else []
    return faults + [fault for method, item in _own_methods(value) for fault in _faults(f"{name}.{method}", item)]


def test_public_docstrings_are_there_and_name_the_errors(package: Any) -> None:
    module = importlib.import_module(package.module)
    faults = [fault for name in module.__all__ for fault in _faults(name, getattr(module, name))]
    assert not faults, "\n".join(faults)
