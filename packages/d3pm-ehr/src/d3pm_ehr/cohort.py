"""A cohort: records as sparse codes and categorical columns. It holds no identifier of a patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from shared_core.errors import InputError
from torch import Tensor

from d3pm_ehr.vocabulary import Column, Vocabulary

if TYPE_CHECKING:
    import pandas

SPLITS = ("train", "tuning", "held_out")


@dataclass(frozen=True)
class Cohort:
    """Records of one vocabulary.

    Args:
        vocabulary: names of codes and columns.
        codes: CSR, one row a record, ones where a code is present.
        columns: levels of the categorical columns, [records, columns].
        split: 0 train, 1 tuning, 2 held out, for each record; None where not split.
        info: how it was made (counts of what was dropped), for `info` and reports.

    Raises:
        InputError: if codes, columns, split and vocabulary do not fit one another.
    """

    vocabulary: Vocabulary
    codes: sparse.csr_matrix
    columns: NDArray[np.uint8]
    split: NDArray[np.int8] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, columns = len(self), len(self.vocabulary.columns)
        if self.codes.shape[1] != len(self.vocabulary.codes) or self.columns.shape != (rows, columns):
            raise InputError(
                f"records of shape {self.codes.shape} and {self.columns.shape} do not fit a vocabulary of "
                f"{len(self.vocabulary.codes)} codes and {columns} columns"
            )

    def __len__(self) -> int:
        return int(self.codes.shape[0])

    # -- making ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        codes: ArrayLike | sparse.spmatrix | sparse.sparray,
        names: Sequence[str] | Vocabulary | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
    ) -> "Cohort":
        """From a 0/1 matrix (dense or sparse) and categorical columns by name.

        Args:
            codes: [records, codes].
            names: of the codes, or a vocabulary; `code0`, `code1`, ... by default.
            columns: values of each categorical column, any type; levels are its sorted distinct values.

        Raises:
            InputError: for an empty table, or a value that is not 0 or 1 (names row and column).
        """
        matrix: Any = sparse.csr_matrix(codes)  # type: ignore[arg-type] # scipy takes whatever numpy does
        if matrix.shape[0] == 0:
            raise InputError("the table has no rows")
        wrong = np.flatnonzero((matrix.data != 1) & (matrix.data != 0))
        if len(wrong):
            row = int(np.searchsorted(matrix.indptr, wrong[0], side="right")) - 1
            column, value = int(matrix.indices[wrong[0]]), matrix.data[wrong[0]]
            raise InputError(f"row {row}, column {column}: a code is 0 or 1, got {value:g}")
        matrix = matrix.astype(np.uint8)
        matrix.eliminate_zeros()
        matrix.sort_indices()
        if isinstance(names, Vocabulary):
            return cls(names, matrix, np.zeros((matrix.shape[0], 0), np.uint8))
        made, values = [], []
        for name, given in (columns or {}).items():
            levels, index = np.unique(np.asarray(given).astype(str), return_inverse=True)
            if len(levels) > 254:
                raise InputError(f"column {name!r} has {len(levels)} distinct values; at most 254 levels, or bin it")
            made.append(Column(name, tuple(levels)))
            values.append(index.astype(np.uint8))
        keys = tuple(names) if names is not None else tuple(f"code{i}" for i in range(matrix.shape[1]))
        table = np.stack(values, 1) if values else np.zeros((matrix.shape[0], 0), np.uint8)
        counts = tuple(int(c) for c in np.bincount(matrix.indices, minlength=matrix.shape[1]))
        return cls(Vocabulary(keys, tuple(made), counts=counts), matrix, table)

    @classmethod
    def from_tokens(cls, vocabulary: Vocabulary, tokens: UInt8[Tensor, "rows columns"]) -> "Cohort":
        """From tokens in the layout's order."""
        values = tokens.cpu().numpy()
        dense = np.empty_like(values)
        dense[:, vocabulary.order] = values
        split = len(vocabulary.codes)
        return cls(vocabulary, sparse.csr_matrix(dense[:, :split]), dense[:, split:].copy())

    # -- reading ---------------------------------------------------------------------------------------------------

    def tokens(self, rows: ArrayLike | slice = slice(None)) -> UInt8[Tensor, "rows columns"]:
        """Records as tokens in the layout's order."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        dense = np.concatenate([self.codes[index].toarray(), self.columns[index]], 1)
        return torch.from_numpy(np.ascontiguousarray(dense[:, self.vocabulary.order]))

    def take(self, rows: ArrayLike) -> "Cohort":
        """These records (indices or a mask), with their split."""
        index = np.asarray(rows)
        split = None if self.split is None else self.split[index]
        return replace(self, codes=self.codes[index], columns=self.columns[index], split=split)

    def part(self, name: str) -> "Cohort":
        """The records of one split: `train`, `tuning` or `held_out`.

        Raises:
            InputError: if the cohort is not split, or there is no such split.
        """
        if name not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        if self.split is None:
            raise InputError("the cohort is not split into train, tuning and held_out")
        return self.take(np.flatnonzero(self.split == SPLITS.index(name)))

    def with_split(
        self, seed: int, shares: tuple[float, float] = (0.1, 0.2), groups: NDArray[np.int64] | None = None
    ) -> "Cohort":
        """Split at random, records of one patient (`groups`) together.

        Args:
            seed: of the permutation.
            shares: of tuning and held_out records.
            groups: patient number of each record; each record is a patient by default.

        Raises:
            InputError: unless both shares are positive and leave something to train on.
        """
        tuning, held_out = shares
        if min(shares) < 0 or tuning + held_out >= 1:
            raise InputError(f"shares of tuning and held_out must be >= 0 and sum to less than 1, got {shares}")
        number = groups if groups is not None else np.arange(len(self))
        _, patient = np.unique(number, return_inverse=True)
        count = int(patient.max()) + 1
        place = np.empty(count, np.int64)
        place[np.random.default_rng(seed).permutation(count)] = np.arange(count)
        bounds = [count - round(count * (tuning + held_out)), count - round(count * held_out)]
        return replace(self, split=np.searchsorted(bounds, place, side="right")[patient].astype(np.int8))

    def top(self, count: int) -> "Cohort":
        """Only the `count` most frequent codes, alphabetically ordered as before."""
        frequency = np.bincount(self.codes.indices, minlength=self.codes.shape[1])
        kept = np.sort(np.argsort(-frequency, kind="stable")[:count])
        vocabulary = replace(
            self.vocabulary,
            codes=tuple(self.vocabulary.codes[i] for i in kept),
            counts=tuple(int(frequency[i]) for i in kept),
        )
        return replace(self, vocabulary=vocabulary, codes=sparse.csr_matrix(self.codes[:, kept]))

    def without_empty(self) -> "Cohort":
        """Records with at least one code."""
        return self.take(np.flatnonzero(self.lengths()))

    def lengths(self) -> NDArray[np.int64]:
        """Codes of each record."""
        return np.diff(self.codes.indptr).astype(np.int64)

    def frame(self) -> "pandas.DataFrame":
        """Codes as 0/1 columns and the categorical columns by their levels' names, as a pandas data frame."""
        import pandas

        table = pandas.DataFrame(self.codes.toarray(), columns=list(self.vocabulary.codes))
        for index, column in enumerate(self.vocabulary.columns):
            table[column.name] = np.array(column.levels)[self.columns[:, index]]
        return table

    def dense(self) -> NDArray[np.float32]:
        """Codes as a 0/1 matrix."""
        return self.codes.toarray().astype(np.float32)


def empirical_laws(cohort: Cohort, prior: float = 0.5) -> Float[Tensor, "laws"]:
    """Smoothed laws of all columns, from the sparse table (no dense copy of the cohort)."""
    vocabulary = cohort.vocabulary
    rows = len(cohort)
    counts = np.bincount(cohort.codes.indices, minlength=len(vocabulary.codes))
    parts = []
    for group in vocabulary.layout.groups:
        laws = []
        for token in range(group.start, group.stop):
            source = vocabulary.order[token]
            column = source - len(vocabulary.codes)
            if column < 0:
                own = np.array([rows - counts[source], counts[source]])
            else:
                own = np.bincount(cohort.columns[:, column], minlength=group.levels)
            law = (own + prior) / (rows + prior * group.levels)
            laws.append(law[1:] if group.levels == 2 else law)
        parts.append(torch.from_numpy(np.concatenate(laws)))
    return torch.cat(parts)
