"""Tables of many small regression problems: reading, checking, scaling."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TaskTable:
    """Many regression problems with the same features.

    Attributes:
        names: of the tasks.
        X: features of each task.
        y: labels of each task.
        features: names of the features.
    """

    names: list[str]
    X: list[Float[Tensor, "rows d"]]
    y: list[Float[Tensor, "rows"]]
    features: list[str]

    def take(self, indices: list[int]) -> "TaskTable":
        """Some of the tasks."""
        return TaskTable(
            [self.names[i] for i in indices], [self.X[i] for i in indices], [self.y[i] for i in indices], self.features
        )


@dataclass(frozen=True)
class Scaling:
    """Means and scales taken off a table: the theory's tasks have mean zero."""

    x_mean: Float[Tensor, "d"]
    x_scale: Float[Tensor, "d"]
    y_mean: float

    def apply(self, table: TaskTable) -> TaskTable:
        """The scaled table."""
        X = [(part - self.x_mean) / self.x_scale for part in table.X]
        return TaskTable(table.names, X, [part - self.y_mean for part in table.y], table.features)


def read_tasks(path: str | Path, task: str = "task", target: str = "y") -> TaskTable:
    """Read a csv with one row for each example: a column naming the task, a label, and numeric features.

    Raises:
        InputError: for a missing or doubled column, a row without a task, an empty table, no features, or a cell that
            is not a finite number (its line).
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    rows: dict[str, list[list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            for column in (task, target):
                if header.count(column) != 1:
                    raise InputError(f"{path} needs one column {column!r}; it has: {', '.join(header) or 'nothing'}")
            twice = [name for name in header if header.count(name) > 1]
            if twice:
                raise InputError(f"{path} has more than one column {twice[0]!r}")
            features = [name for name in header if name not in (task, target)]
            if not features:
                raise InputError(f"{path} has no feature columns beside {task!r} and {target!r}")
            order = [header.index(target), *[header.index(name) for name in features]]
            place = header.index(task)
            for cells in reader:
                if cells:
                    numbers = _numbers(path, reader.line_num, header, cells, order)
                    if not cells[place].strip():
                        raise InputError(f"{path}, line {reader.line_num}, column {task!r} is empty")
                    rows.setdefault(cells[place], []).append(numbers)
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    if not rows:
        raise InputError(f"{path} holds no rows")
    tables = [torch.tensor(part, dtype=torch.float64) for part in rows.values()]
    return TaskTable(list(rows), [part[:, 1:] for part in tables], [part[:, 0] for part in tables], features)


def _numbers(path: Path, line: int, header: list[str], cells: list[str], order: list[int]) -> list[float]:
    if len(cells) != len(header):
        raise InputError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}")
    numbers = []
    for index in order:
        try:
            numbers.append(float(cells[index]))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise InputError(
                f"{path}, line {line}, column {header[index]!r}: {cells[index]!r} is not a finite number"
                if cells[index].strip()
                else f"{path}, line {line}, column {header[index]!r} is empty: fill missing values or drop the row"
            )
    return numbers


def check_rows(table: TaskTable, needed: int) -> None:
    """Every task has at least `needed` rows.

    Raises:
        InputError: naming the shortest task and how many are too short.
    """
    sizes = [len(part) for part in table.y]
    short = sum(size < needed for size in sizes)
    if short:
        worst = min(range(len(sizes)), key=sizes.__getitem__)
        raise InputError(
            f"{short} of {len(sizes)} tasks have fewer than {needed} rows (task {table.names[worst]!r} has"
            f" {sizes[worst]}): every task needs its context and at least one more row; lower --context or drop them"
        )


def fit_scaling(table: TaskTable, standardize: bool = True) -> Scaling:
    """Pooled means, and standard deviations where `standardize`.

    Raises:
        InputError: for a feature that never varies.
    """
    X, y = torch.cat(table.X), torch.cat(table.y)
    scale = X.std(0, unbiased=False)
    for name, value in zip(table.features, scale.tolist(), strict=True):
        if value == 0:
            raise InputError(f"feature {name!r} never varies: leave it out")
    return Scaling(X.mean(0), scale if standardize else torch.ones_like(scale), float(y.mean()))
