"""Which tokens a record has: columns of K levels each, grouped by K and never padded to the largest K."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from shared_core.errors import InputError
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """A run of columns with the same number of levels.

    Attributes:
        levels: K; a code is a column of K = 2 (absent, present).
        start: first column.
        stop: one past the last column.
        offset: where its logits start in the flat vector.
        width: logits of one column: 1 (log-odds) for K = 2, else K.
    """

    levels: int
    start: int
    stop: int
    offset: int

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.stop - self.start

    @property
    def width(self) -> int:
        """Logits of one column."""
        return 1 if self.levels == 2 else self.levels

    @property
    def end(self) -> int:
        """One past its last logit."""
        return self.offset + self.columns * self.width


class TokenLayout:
    """The levels of every column, sorted so that equal ones are neighbours.

    Args:
        levels: K_n for n = 1..N, in non-decreasing order, each 2..255.

    Raises:
        InputError: if empty, unsorted, or a K is out of range.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = tuple(int(k) for k in levels)
        if not self.levels:
            raise InputError("a record needs at least one column, got none")
        if list(self.levels) != sorted(self.levels):
            raise InputError("columns must be ordered by their number of levels")
        if self.levels[0] < 2 or self.levels[-1] > 254:
            raise InputError(f"every column needs 2..254 levels, got {self.levels[0]}..{self.levels[-1]}")
        groups, offset, start = [], 0, 0
        for k in sorted(set(self.levels)):
            group = Group(k, start, start + self.levels.count(k), offset)
            groups.append(group)
            start, offset = group.stop, group.end
        self.groups = tuple(groups)

    @property
    def columns(self) -> int:
        """N, the number of tokens of a record."""
        return len(self.levels)

    @property
    def logits(self) -> int:
        """Length of the flat vector of logits."""
        return self.groups[-1].end

    @property
    def binary(self) -> bool:
        """Whether every column is a code (K = 2)."""
        return self.levels[-1] == 2

    def parts(self, flat: Float[Tensor, "*batch logits"]) -> Iterator[tuple[Group, Tensor]]:
        """Each group with its logits: [..., n] log-odds for K = 2, [..., n, K] otherwise."""
        for group in self.groups:
            part = flat[..., group.offset : group.end]
            yield group, part if group.levels == 2 else part.unflatten(-1, (group.columns, group.levels))

    def probabilities(self, flat: Float[Tensor, "*batch logits"]) -> list[Tensor]:
        """Softmax of each group: [..., n] of level 1 for K = 2, [..., n, K] otherwise."""
        return [torch.sigmoid(part) if group.levels == 2 else part.softmax(-1) for group, part in self.parts(flat)]

    def empirical(self, x: UInt8[Tensor, "rows columns"], prior: float = 0.5) -> Float[Tensor, "laws"]:
        """Law of every column, smoothed by `prior` counts a level, flat like the logits (level 1's share for K = 2)."""
        parts = []
        for group in self.groups:
            values = x[:, group.start : group.stop]
            counts = torch.stack([(values == level).sum(0) for level in range(group.levels)], -1).double() + prior
            law = counts / counts.sum(-1, keepdim=True)
            parts.append(law[:, 1] if group.levels == 2 else law.flatten())
        return torch.cat(parts)

    def check(self, x: Tensor) -> None:
        """Refuse records that are not of this layout.

        Raises:
            InputError: naming the first row and column whose level is out of range.
        """
        if x.ndim != 2 or x.shape[1] != self.columns:
            raise InputError(f"records must have shape (rows, {self.columns}), got {tuple(x.shape)}")
        bound = torch.tensor(self.levels, device=x.device)
        wrong = (x.long() < 0) | (x.long() >= bound)
        if bool(wrong.any()):
            row, column = (int(i) for i in wrong.nonzero()[0])
            limit = self.levels[column] - 1
            raise InputError(f"row {row}, column {column}: level must be in 0..{limit}, got {int(x[row, column])}")
