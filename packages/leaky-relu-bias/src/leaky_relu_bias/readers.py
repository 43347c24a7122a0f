"""Points and labels of users' files: csv, npy and npz, MNIST's IDX."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from shared_core.errors import InputError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
Arrays = tuple[np.ndarray, np.ndarray]


def read_csv(path: Path, label: str | None = None) -> Arrays:
    """Features and labels of a csv file with or without a header.

    Raises:
        InputError: for cells that are not numbers (names row and column) or a label column that is not there.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, header=None, dtype=str, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is not a csv table ({' '.join(str(error).split())})") from error
    header = pd.to_numeric(table.iloc[0], errors="coerce").isna().all()
    names = [str(name) for name in table.iloc[0]] if header else [str(index) for index in range(table.shape[1])]
    body = table.iloc[1:] if header else table
    if len(body) < 1 or len(names) < 2:
        raise InputError(f"{path} must hold at least one row of features and a label, got {len(body)} x {len(names)}")
    column = _label_column(path, names, label)
    numbers = body.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    labels = numbers[:, column]
    if np.isnan(labels).all():  # labels in words
        words = body.iloc[:, column]
        labels = np.where(words.isna(), np.nan, np.unique(words.fillna("").astype(str), return_inverse=True)[1])
    features = np.delete(numbers, column, axis=1)
    _refuse_gaps(path, features, labels, body, names, column, first_line=2 if header else 1)
    return features, labels


def _label_column(path: Path, names: list[str], label: str | None) -> int:
    if label is not None:
        if label not in names:
            raise InputError(f"{path} has no column {label!r}; columns: {', '.join(names[:8])}")
        return names.index(label)
    return next((names.index(name) for name in ("label", "y", "target", "class") if name in names), len(names) - 1)


def _refuse_gaps(
    path: Path, features: np.ndarray, labels: np.ndarray, body: Any, names: list[str], column: int, first_line: int
) -> None:
    bad = np.argwhere(~np.isfinite(np.insert(features, column, labels, axis=1)))
    if len(bad):
        row, position = (int(index) for index in bad[0])
        what = body.iloc[row, position]
        raise InputError(
            f"{path}, line {row + first_line}, column {names[position]}: expected a finite number, got {what!r}"
        )


def read_numpy(path: Path) -> Arrays:
    """X and y of an .npz (also MNIST's x_train and y_train), or an .npy whose last column is the label.

    Raises:
        InputError: for a file that is neither, or holds objects.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            if content.ndim != 2 or content.shape[1] < 2:
                raise InputError(f"{path} must be points by features with the label last, got shape {content.shape}")
            return _flat(content[:, :-1]), content[:, -1]
        with content:
            for points, labels in (("X", "y"), ("x_train", "y_train")):
                if {points, labels} <= set(content.files):
                    return _flat(content[points]), content[labels]
            raise InputError(f"{path} must hold X and y (or x_train and y_train), it holds {', '.join(content.files)}")
    except (InputError, OSError):
        raise
    except Exception as error:  # of numpy and zipfile; numpy's own words advise to unpickle
        raise InputError(
            f"{path} cannot be read as numpy data: no {path.suffix} file of plain arrays (pickled objects are refused)"
        ) from error


def _flat(images: np.ndarray) -> np.ndarray:
    if images.dtype.kind not in "biuf":
        raise InputError(f"the points must be real numbers, got an array of {images.dtype}")
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    return images.reshape(len(images), -1).astype(np.float64) / scale


def read_idx_folder(folder: Path) -> Arrays:
    """MNIST from a folder of IDX files, plain or gzipped.

    Raises:
        InputError: if none is there (says which are expected).
    """
    for stem in ("train-images-idx3-ubyte", "train-images.idx3-ubyte", "t10k-images-idx3-ubyte"):
        for name in (stem, f"{stem}.gz"):
            if (folder / name).exists():
                return read_idx_pair(folder / name)
    raise InputError(
        f"{folder} holds no MNIST: expected train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz"
    )


def read_idx_pair(images: Path) -> Arrays:
    """Images and, beside them, their labels.

    Raises:
        InputError: if the labels are missing or the counts differ.
    """
    labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    others = [labels, labels.with_name(labels.name.removesuffix(".gz")), labels.with_name(labels.name + ".gz")]
    found = next((path for path in others if path.exists()), None)
    if found is None:
        raise InputError(f"{images}: the labels are missing, expected {labels.name} beside it")
    X, y = read_idx(images), read_idx(found)
    if len(X) != len(y):
        raise InputError(f"{images} holds {len(X)} images and {found.name} {len(y)} labels")
    return _flat(X), y.astype(np.int64)


def read_idx(path: Path) -> np.ndarray:
    """One IDX array, gzipped or not.

    Raises:
        InputError: for a wrong magic number or a truncated file.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, OSError) as error:
        raise InputError(f"{path} is not a whole gzip file ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_TYPES or raw[3] == 0:
        raise InputError(f"{path} is not an IDX file: its magic number is {raw[:4].hex() or 'missing'}")
    axes = raw[3]
    if len(raw) < 4 + 4 * axes:
        raise InputError(f"{path} is truncated inside its header")
    shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes])
    kind = np.dtype(IDX_TYPES[raw[2]])
    expected = 4 + 4 * axes + int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(raw) != expected:
        raise InputError(f"{path} is truncated: {shape} needs {expected} bytes, it has {len(raw)}")
    return np.frombuffer(raw, kind, offset=4 + 4 * axes).reshape(shape)
