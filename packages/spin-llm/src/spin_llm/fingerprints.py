"""A run's folder belongs to one configuration and one data set: `fingerprints.json` refuses to mix two runs in it.

The name of a data file does not say that its content is still that of the run which was killed.
"""

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.files import jsonable, write_json
from shared_core.run_folder import read_json

from spin_llm.config import SPINConfig, as_settings
from spin_llm.rendering import Tokens

FINGERPRINTS = "fingerprints.json"


def check_same_run(
    folder: Path, config: SPINConfig, train: Sequence[Tokens], held_out: Sequence[Tokens], write: bool = True
) -> None:
    """Write down what the run is made of, or compare it with what is written there.

    Args:
        folder: of the run.
        config: its settings.
        train: examples.
        held_out: examples for evaluation.
        write: one process of several writes.

    Raises:
        InputError: naming the setting that differs, or the data.
    """
    now = jsonable({"settings": as_settings(config), "data": {"train": digest(train), "held-out": digest(held_out)}})
    path = folder / FINGERPRINTS
    if not path.exists():
        if write:
            write_json(path, now)
        return
    earlier = read_json(path)
    if not isinstance(earlier, dict) or not all(isinstance(earlier.get(part), dict) for part in now):
        raise InputError(f"{path} is not what a run writes there; remove {folder} or give another")
    where = f"{folder} holds another run"
    for name, value in _flat(now["settings"]).items():
        before = _flat(earlier["settings"]).get(name)
        if before != value:
            raise InputError(f"{where}: {name} was {before}, is {value}; give another folder or remove it")
    for name, value in now["data"].items():
        if earlier["data"].get(name) != value:
            raise InputError(f"{where}: the {name} examples are not the same; give another folder or remove it")


def digest(examples: Sequence[Tokens]) -> str:
    """Of ids and tokens."""
    found = hashlib.sha256()
    for example in examples:
        found.update(example.id.encode(errors="surrogatepass"))
        found.update(array("q", [len(example.prompt), *example.prompt, *example.real]).tobytes())
    return found.hexdigest()[:16]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
