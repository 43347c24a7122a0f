"""A labelled data set, checked once, with the geometry that the paper's theorems speak about.

Nearly-orthogonal data: ||x_i||^2 >= C n max_{k != i} |<x_i, x_k>| for every i, C a constant.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

log = logging.getLogger(__name__)
# |cos| closer to 1 than this: the two points are parallel, and a bias-free homogeneous net sees one point.
PARALLEL = 1e-12


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Points as rows of X and their labels y in {-1, +1}; make one with `training_set`."""

    X: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]

    @property
    def n(self) -> int:
        """Number of points."""
        return self.X.shape[0]

    @property
    def d(self) -> int:
        """Dimension."""
        return self.X.shape[1]

    @cached_property
    def gram(self) -> Float[Tensor, "n n"]:
        """G = X X^T."""
        return self.X @ self.X.T

    @cached_property
    def norms(self) -> Float[Tensor, " n"]:
        """||x_i||."""
        return torch.linalg.vector_norm(self.X, dim=1)

    @property
    def r_min(self) -> float:
        """Smallest norm R_min."""
        return float(self.norms.min())

    @property
    def r_max(self) -> float:
        """Largest norm R_max."""
        return float(self.norms.max())

    @property
    def norm_ratio(self) -> float:
        """R = R_max / R_min."""
        return self.r_max / self.r_min

    @cached_property
    def largest_overlap(self) -> float:
        """p = max_{i != k} |<x_i, x_k>| (0 for one point)."""
        return float((self.gram - torch.diag(self.gram.diagonal())).abs().max())

    @property
    def ratio(self) -> float:
        """R_min^2 / (n p): at least the theorem's constant C where the data are nearly orthogonal."""
        p = self.largest_overlap
        # Rounding of an orthogonal basis is orthogonality.
        return math.inf if p <= 1e-14 * self.r_max**2 else self.r_min**2 / (self.n * p)

    @cached_property
    def digest(self) -> str:
        """Hash of X and y, for the record of a run."""
        content = hashlib.sha256(self.X.cpu().numpy().tobytes())
        content.update(self.y.cpu().numpy().tobytes())
        return content.hexdigest()[:16]

    def step_scale(self, m: int) -> float:
        """n m / R_max^2, the step size that the theory's condition is measured in."""
        return self.n * m / self.r_max**2

    def describe(self) -> dict[str, Any]:
        """Size and geometry as plain numbers."""
        return {
            "n": self.n,
            "d": self.d,
            "positive": int((self.y > 0).sum()),
            "r_min": self.r_min,
            "r_max": self.r_max,
            "norm_ratio": self.norm_ratio,
            "largest_overlap": self.largest_overlap,
            "ratio": self.ratio,
            "data_hash": self.digest,
        }


def training_set(X: Any, y: Any, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float64) -> TrainingSet:
    """Check arrays, tensors or nested lists and make a `TrainingSet` of them.

    Labels may be any two values; the smaller becomes -1, the larger +1. A single class is legal.

    Raises:
        InputError: for values that are not numbers or not finite, shapes that do not fit, points of norm zero, more
            than two labels, or the same direction with both labels (no bias-free homogeneous net separates it).
    """
    points = _numbers(X, "X")
    if points.ndim != 2:
        raise InputError(f"X must be points by features, got shape {tuple(points.shape)}")
    if points.shape[0] < 1 or points.shape[1] < 1:
        raise InputError(f"X must hold at least one point and one feature, got shape {tuple(points.shape)}")
    _refuse_bad_rows(points)
    labels = signed_labels(y, points.shape[0])
    data = TrainingSet(
        torch.as_tensor(points, dtype=dtype, device=device), torch.as_tensor(labels, dtype=dtype, device=device)
    )
    _refuse_extreme_norms(data)
    _refuse_contradictions(data)
    return data


def _numbers(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        if array.dtype.kind not in "biuf":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers ({error})") from error
    return array.astype(np.float64)


def _refuse_bad_rows(points: np.ndarray) -> None:
    finite = np.isfinite(points)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(f"X must be finite, got {points[row, column]} in row {row}, column {column}")
    zero = np.flatnonzero(~points.any(axis=1))
    if zero.size:
        raise InputError(f"X has a point of norm zero in row {zero[0]}, whose margin is 0 for ever; drop it")


def _refuse_extreme_norms(data: TrainingSet) -> None:
    """Squares of the norms enter everything, also divided by one another."""
    tiny, huge = (getattr(torch.finfo(data.X.dtype), name) ** 0.25 for name in ("tiny", "max"))
    if not (data.r_min > tiny and data.r_max < huge):
        raise InputError(
            f"X has norms from {data.r_min:.3g} to {data.r_max:.3g}, whose powers leave the range of the numbers: "
            "scale the points"
        )


def signed_labels(y: Any, n: int) -> np.ndarray:
    """Labels as -1 / +1.

    Raises:
        InputError: unless `y` holds `n` labels of at most two values without NaN.
    """
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.ndim != 1 or labels.shape[0] != n:
        raise InputError(f"y must hold one label for each of the {n} points of X, got shape {tuple(labels.shape)}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise InputError(f"y has NaN in row {int(np.flatnonzero(np.isnan(labels))[0])}")
    try:
        values = np.unique(labels)
    except TypeError as error:
        raise InputError(f"y must hold labels of one kind ({error})") from error
    if values.size > 2:
        shown = ", ".join(str(value) for value in values[:4])
        raise InputError(f"y must take two values, got {values.size} ({shown}, ...): choose a pair of classes")
    if values.size == 1:
        negative = values[0] in (-1, 0, "-1", "0")
        log.warning("y has one class only (%s): the net will have one block of support", values[0])
        return np.full(n, -1.0 if negative else 1.0)
    return np.where(labels == values[1], 1.0, -1.0)


def _refuse_contradictions(data: TrainingSet) -> None:
    cosines = data.gram / torch.outer(data.norms, data.norms)
    clash = (cosines >= 1 - PARALLEL) & (data.y[:, None] != data.y[None, :])
    if clash.any():
        first, second = (int(index) for index in clash.nonzero()[0])
        raise InputError(
            f"rows {first} and {second} of X are the same direction with opposite labels: no net separates them, "
            "and the loss does not go to 0; drop one"
        )


def per_class(values: Sequence[int] | None) -> tuple[int, int] | None:
    """Two different classes, or None.

    Raises:
        InputError: unless exactly two different values are given.
    """
    if values is None:
        return None
    if len(values) != 2 or values[0] == values[1]:
        raise InputError(f"pair must be two different classes such as 0,1, got {list(values)}")
    return int(values[0]), int(values[1])
