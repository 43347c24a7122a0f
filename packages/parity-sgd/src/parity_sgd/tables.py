"""Reading and writing tables of binary features and a label: csv, tsv and parquet."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from shared_core.files import atomic_path
from torch import Tensor

from parity_sgd.codes import pack

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BinaryTable:
    """Features and labels in {-1, +1}; 0 of a 0/1 column became +1 and 1 became -1, so a product is an XOR.

    Args:
        X: (n, d).
        y: (n,).
        columns: name of every feature.
        label: name of the label.
        dropped: constant columns, left out of X.
    """

    X: Float[Tensor, "n d"]
    y: Float[Tensor, "n"]
    columns: tuple[str, ...]
    label: str
    dropped: tuple[str, ...] = ()


def read_table(path: str | Path, label: str | None = None) -> BinaryTable:
    """Read a csv, tsv or parquet file of entries in {0, 1} or {-1, +1} (each column may use either).

    Args:
        path: the file; the ending decides.
        label: name of the label column; by default `y` or `label` where there is one, else the last column.

    Raises:
        InputError: if it is not such a table; the message names the column and the first bad row.
    """
    frame = _read_frame(Path(path))
    if frame.empty:
        raise InputError(f"{path} holds no rows")
    frame.columns = [str(name) for name in frame.columns]
    if frame.columns.duplicated().any():
        raise InputError(f"{path} names the column {frame.columns[frame.columns.duplicated()][0]!r} twice")
    name = _label_name(path, list(frame.columns), label)
    y = _signs(path, name, frame[name])
    if np.all(y == y[0]):
        raise InputError(f"{path}: the label column {name!r} is constant; there is nothing to learn")
    features = {column: _signs(path, column, frame[column]) for column in frame.columns if column != name}
    dropped = tuple(column for column, values in features.items() if np.all(values == values[0]))
    if dropped:
        log.warning("left out constant columns: %s", ", ".join(dropped))
    kept = [column for column in features if column not in dropped]
    if not kept:
        raise InputError(f"{path} has no feature column that varies beside the label {name!r}")
    X = torch.from_numpy(np.stack([features[column] for column in kept], axis=1))
    return BinaryTable(X, torch.from_numpy(y), tuple(kept), name, dropped)


def _read_frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        if kind in (".csv", ".tsv"):
            return pd.read_csv(path, sep="\t" if kind == ".tsv" else ",")
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable {kind[1:]} file: {str(error).splitlines()[0]}") from error
    raise InputError(f"{path} must end in .csv, .tsv or .parquet, got {path.suffix or 'no ending'}")


def _label_name(path: str | Path, columns: Sequence[str], label: str | None) -> str:
    if label is not None:
        if label not in columns:
            raise InputError(f"{path} has no column {label!r}; columns: {', '.join(list(columns)[:8])}")
        return label
    return next((name for name in ("y", "label") if name in columns), columns[-1])


def _signs(path: str | Path, column: str, values: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    present = set(np.unique(numbers[~np.isnan(numbers)]))
    if np.isnan(numbers).any() or not (present <= {0.0, 1.0} or present <= {-1.0, 1.0}):
        allowed = {-1.0, 1.0} if -1.0 in present else {0.0, 1.0}
        row = int(np.flatnonzero(~np.isin(numbers, list(allowed)))[0])
        found = values.iloc[row]
        shown = "a missing value" if pd.isna(found) else repr(found if isinstance(found, str) else float(found))
        raise InputError(f"{path}: column {column!r} must hold 0/1 or -1/+1, got {shown} in data row {row + 1}")
    signs = numbers if -1.0 in present else 1 - 2 * numbers
    return signs.astype(np.float32)


def check_table_name(out: str | None) -> str:
    """The name of a table to write.

    Raises:
        InputError: if there is none, or it has another ending than .csv, .tsv or .parquet.
    """
    if out is None:
        raise InputError("give --out, the .csv, .tsv or .parquet file to write")
    if Path(out).suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"{out} must end in .csv, .tsv or .parquet")
    return out


def write_table(
    path: str | Path,
    X: Float[Tensor, "n d"],
    y: Float[Tensor, "n"],
    columns: Sequence[str] | None = None,
    label: str = "y",
) -> None:
    """Write features and labels as 0/1 (+1 is 0, -1 is 1) to a csv, tsv or parquet file.

    Raises:
        InputError: for another ending.
    """
    names = list(columns) if columns is not None else [f"x{j}" for j in range(X.shape[1])]
    frame = pd.DataFrame((X < 0).to(torch.uint8).cpu().numpy(), columns=names)
    frame[label] = (y < 0).to(torch.uint8).cpu().numpy()
    kind = Path(check_table_name(str(path))).suffix.lower()
    with atomic_path(path) as aside:
        if kind == ".parquet":
            frame.to_parquet(aside)
        else:
            frame.to_csv(aside, index=False, sep="\t" if kind == ".tsv" else ",")


def warn_about_columns(X: Float[Tensor, "n d"], columns: tuple[str, ...]) -> list[str]:
    """Warn of columns that are not fair coins, or equal or opposite to another: irrelevant gradients are then not zero.

    A column is named where its mean is beyond 5 standard errors and beyond 0.05; a pair where |correlation| > 0.5.
    """
    n, d = X.shape
    means = X.mean(0)
    found = []
    biased = [j for j in range(d) if abs(float(means[j])) > max(5 / sqrt(n), 0.05)]
    if biased:
        worst = max(biased, key=lambda j: abs(float(means[j])))
        found.append(
            f"{len(biased)} of {d} columns are not fair coins (most biased: {columns[worst]!r}, mean "
            f"{float(means[worst]):+.2f} in -1/+1): gradients of irrelevant columns are then not zero on average"
        )
    if d <= 2000:
        centred = X - means
        spread = centred.square().mean(0).sqrt().clamp_min(1e-12)
        correlation = (centred.T @ centred / n / spread[:, None] / spread).abs().triu(1)
        i, j = divmod(int(correlation.argmax()), d)
        if float(correlation[i, j]) > 0.5:
            found.append(f"columns {columns[i]!r} and {columns[j]!r} are correlated ({float(correlation[i, j]):.2f})")
    for message in found:
        log.warning("%s", message)
    return found


def warn_about_copies(X: Float[Tensor, "n d"]) -> str | None:
    """Warn of more equal rows than independent columns of these frequencies give: copies count as evidence once only.

    The number of equal pairs is compared with n(n-1)/2 q, q = prod_j (1 + mean_j^2) / 2, with 6 standard deviations to
    spare: three rows are equal with probability t = prod_j (1 + 3 mean_j^2) / 4, and the variance is n^2 q / 2 +
    n^3 (t - q^2).
    """
    n = len(X)
    counts = torch.unique(pack(X), dim=0, return_counts=True)[1].double()
    pairs = float((counts * (counts - 1)).sum()) / 2
    squares = X.double().mean(0).square()
    q, t = float(((1 + squares) / 2).prod()), float(((1 + 3 * squares) / 4).prod())
    if pairs <= n * (n - 1) / 2 * q + 6 * sqrt(n**2 * q / 2 + n**3 * max(t - q * q, 0.0)) + 10:
        return None
    message = (
        f"{n - len(counts)} of {n} rows have the features of another one, more than independent columns give: where "
        "they are copies, the interval and the p-value count the same evidence several times"
    )
    log.warning("%s", message)
    return message
