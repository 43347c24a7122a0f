"""Data laws from files: `.npy` and `.npz` tables, `.json` descriptions, samples as `.csv` or integer `.npy`."""

import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from shared_core.errors import InputError
from shared_core.files import read_numpy
from shared_core.run_folder import read_json

from ctmc_bounds.arrays import real
from ctmc_bounds.chains import HMMData, IsingRing, MarkovChainData
from ctmc_bounds.data_laws import DataLaw, MixtureData, ProductData, TableData
from ctmc_bounds.exchangeable import ExchangeableData
from ctmc_bounds.real_data import empirical

SUFFIXES = (".npy", ".npz", ".json", ".csv")
JSON_KINDS: dict[str, Callable[..., DataLaw]] = {
    "table": TableData, "product": ProductData, "mixture": MixtureData, "markov": MarkovChainData, "hmm": HMMData,
    "ising": IsingRing, "exchangeable": ExchangeableData,
}  # fmt: skip
WHOLE, NUMBER = {"d", "S"}, {"J", "field"}  # keys that are no arrays
MOST_VALUES = 2**31
T = TypeVar("T")


def read_law_file(path: Path, given: Mapping[str, Any]) -> DataLaw:
    """The law in a file.

    Args:
        path: of one of `SUFFIXES`.
        given: keys typed behind the name; a table takes none, samples S and smoothing, a description its own.

    Raises:
        InputError: naming the file, and what in it is wrong.
    """
    if path.suffix == ".json":
        return _described(path, given)
    array = _load(path)
    if path.suffix == ".csv" or (isinstance(array, np.ndarray) and array.dtype.kind in "iu"):
        return _from_samples(path, array, given)
    if given:
        raise InputError(f"{path}:{next(iter(given))}=...: a table of probabilities takes no keys")
    if path.suffix == ".npz":
        return _from_npz(path, array)
    return TableData(_numbers(path, "the table", array))


def make_law(source: str, make: Callable[..., DataLaw], given: Mapping[str, Any]) -> DataLaw:
    """Call `make` with the keys that it knows.

    Raises:
        InputError: for a key that is unknown or missing.
    """
    known = inspect.signature(make).parameters
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(f"{source}: no key {unknown[0]!r}; keys: {', '.join(known)}")
    missing = [key for key, item in known.items() if item.default is item.empty and key not in given]
    if missing:
        raise InputError(f"{source}: {missing[0]!r} is missing; keys: {', '.join(known)}")
    return make(**given)


def _described(path: Path, given: Mapping[str, Any]) -> DataLaw:
    content = read_json(path)
    kind = content.pop("kind", None) if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in JSON_KINDS:
        raise InputError(f"{path}: kind {kind!r} is none of {', '.join(JSON_KINDS)}")
    values = {key: _described_value(path, key, value) for key, value in {**content, **given}.items()}
    return make_law(str(path), JSON_KINDS[kind], values)


def _described_value(path: Path, key: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in WHOLE and not (number and value == int(value)):
        raise InputError(f"{path}: {key} = {value!r}; expected a whole number")
    if key in NUMBER and not number:
        raise InputError(f"{path}: {key} = {value!r}; expected a number")
    if key in WHOLE | NUMBER:
        return int(value) if key in WHOLE else float(value)
    try:
        return real(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: {key} is no array of numbers ({error})") from error


def _load(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    if path.suffix != ".csv":
        return read_numpy(path)
    try:
        text = path.read_text(encoding="utf-8")
        return np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2) if text.strip() else np.zeros((0, 0))
    except ValueError as error:  # a text that is no table; UnicodeDecodeError is one too
        raise InputError(f"{path} cannot be read: {error}") from error


def _numbers(path: Path, what: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {what} has dtype {array.dtype}; expected real numbers")
    return array


def _from_npz(path: Path, file: Any) -> TableData:
    if not isinstance(file, dict):
        raise InputError(f"{path} is one array; expected S, d and probs")
    missing = {"S", "d", "probs"} - set(file)
    if missing:
        raise InputError(f"{path} has no {sorted(missing)[0]}; expected S, d and probs")
    for name in ("S", "d"):
        if file[name].shape != () or file[name].dtype.kind not in "iu":
            raise InputError(f"{path}: {name} is {file[name].tolist()!r}; expected one whole number")
    return TableData(_numbers(path, "probs", file["probs"]), int(file["S"]), int(file["d"]))


def _from_samples(path: Path, array: np.ndarray, given: Mapping[str, Any]) -> DataLaw:
    unknown = set(given) - {"S", "smoothing"}
    if unknown:
        raise InputError(f"{path}: no key {sorted(unknown)[0]!r}; keys: S, smoothing")
    if array.ndim != 2 or not array.size:
        raise InputError(f"{path} holds samples of shape {array.shape}; expected (n, d) with n >= 1 and d >= 1")
    odd = (array != np.round(array)) | ~(np.abs(array.astype(np.float64)) < MOST_VALUES)
    if odd.any():
        raise InputError(f"{path} holds {array[odd][0]}; tokens are integers 0..S-1")
    x = torch.from_numpy(array.astype(np.int64))
    try:
        return empirical(x, int(given.get("S", max(2, int(array.max()) + 1))), float(given.get("smoothing", 0.0)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
