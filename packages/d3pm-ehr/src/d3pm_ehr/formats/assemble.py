"""Pairs of (record, code) to a cohort: the vocabulary is cut, empty records are decided on, identifiers are dropped."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.table import Numbering
from d3pm_ehr.vocabulary import Vocabulary

Empty = Literal["error", "keep", "drop"]


@dataclass(frozen=True)
class Rules:
    """How source rows become records.

    Args:
        truncate: icd3, none or a number of characters.
        min_records: codes of fewer records are left out of the vocabulary.
        max_codes: at most so many codes, the most frequent ones.
        empty: what to do with a record that has no code in the source: error, keep or drop. Records that lose their
            last code to the vocabulary's cut are dropped with `drop` and kept otherwise; both are counted.
        invalid: what to do with what is no code: error or drop (and count).
    """

    truncate: str = "icd3"
    min_records: int = 10
    max_codes: int | None = None
    empty: Empty = "error"
    invalid: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if self.min_records < 0:
            raise InputError(f"--min-records must not be negative, got {self.min_records}")
        if self.max_codes is not None and self.max_codes < 1:
            raise InputError(f"--max-codes must be at least 1, got {self.max_codes}")


@dataclass
class Pairs:
    """What a reader collects: numbers of records and codes, never kept as text beyond the reading.

    Attributes:
        records: source identifiers, which end with the assembly.
        codes: keys of the vocabulary.
        groups: patient of each record, where a record is a visit.
        counts: of what was dropped, for the report.
    """

    path: Path
    column: str
    rules: Rules
    records: Numbering = field(default_factory=Numbering)
    codes: Numbering = field(default_factory=Numbering)
    patients: Numbering = field(default_factory=Numbering)
    groups: dict[int, int] = field(default_factory=dict)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[NDArray[np.int64]] = field(default_factory=list)
    first_row: dict[int, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, first: int, records: list[str], codes: list[str], key: Callable[[str], str]) -> None:
        """Add rows; `key` turns a source code into a vocabulary key ("" for no code), raising `InputError`."""
        keys = {code: self._key(code, codes, first, key) for code in dict.fromkeys(codes)}
        before = len(self.records.index)
        numbers = self.records(records)
        if len(self.records.index) > before:
            fresh, place = np.unique(numbers, return_index=True)
            self.first_row |= {int(n): first + int(i) for n, i in zip(fresh, place, strict=True) if n >= before}
        mapped = [keys[code] for code in codes]
        has = np.array([bool(code) for code in mapped])
        self.count("rows", len(codes))
        self.count("rows without a code", int((~has).sum()))
        self.rows.append(numbers[has])
        self.values.append(self.codes([code for code in mapped if code]))

    def _key(self, code: str, codes: list[str], first: int, key: Callable[[str], str]) -> str:
        try:
            return key(code)
        except InputError as error:
            if self.rules.invalid == "drop":
                self.count("rows with what is no code", codes.count(code))
                return ""
            raise InputError(f"{self.path}, row {first + codes.index(code)}, column {self.column}: {error}") from error

    def count(self, what: str, number: int) -> None:
        """Add to a count of the report."""
        self.counts[what] = self.counts.get(what, 0) + number

    def cohort(self, split: dict[str, str] | None = None) -> tuple[Cohort, Any]:
        """The cohort and the patient of each of its records (None where a record is a patient).

        Args:
            split: split of each source identifier, where the source has one.

        Raises:
            InputError: for an empty source, an empty record, or no code that is frequent enough.
        """
        rows = np.concatenate(self.rows) if self.rows else np.zeros(0, np.int64)
        values = np.concatenate(self.values) if self.values else np.zeros(0, np.int64)
        shape = (len(self.records.index), len(self.codes.index))
        if not shape[0]:
            raise InputError(f"{self.path} has no records")
        matrix = sparse.csr_matrix((np.ones(len(rows), np.uint8), (rows, values)), shape=shape)
        matrix.data[:] = 1  # a code that appears twice in a record is present once
        full = np.diff(matrix.indptr) > 0
        self._refuse_empty(full)
        chosen, matrix = self._vocabulary(matrix)
        kept = np.arange(shape[0])
        now = np.diff(matrix.indptr) > 0
        self.count("records", shape[0])
        self.count("records without a code in the source", int((~full).sum()))
        self.count("records emptied by the cut of the vocabulary", int((full & ~now).sum()))
        if self.rules.empty == "drop":
            kept = np.flatnonzero(now)
            if not len(kept):
                raise InputError(f"{self.path}: every record is empty")
        groups = None if not self.groups else np.array([self.groups[int(i)] for i in kept])
        cohort = Cohort(chosen, matrix[kept], np.zeros((len(kept), 0), np.uint8), self._split(split, kept),
                        {"source": self.path.name, **self.counts})  # fmt: skip
        return cohort, groups

    def _refuse_empty(self, full: NDArray[np.bool_]) -> None:
        if self.rules.empty == "error" and not full.all():
            record = int(np.flatnonzero(~full)[0])
            raise InputError(
                f"{self.path}, row {self.first_row.get(record, 1)}, column {self.column}: this record has no code, and "
                f"{int((~full).sum()) - 1} more have none; --empty keep or --empty drop says what to do"
            )

    def _vocabulary(self, matrix: sparse.csr_matrix) -> tuple[Vocabulary, sparse.csr_matrix]:
        frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
        order = np.argsort(-frequency, kind="stable")[: self.rules.max_codes]
        order = order[frequency[order] >= max(1, self.rules.min_records)]
        names = self.codes.names
        kept = sorted((int(i) for i in order), key=names.__getitem__)
        if not kept:
            raise InputError(f"{self.path}: no code is in {self.rules.min_records} records; lower --min-records")
        self.count("codes", matrix.shape[1])
        self.count("codes left out as rare", matrix.shape[1] - len(kept))
        vocabulary = Vocabulary(
            tuple(names[i] for i in kept), (), self.rules.truncate, tuple(int(frequency[i]) for i in kept),
            self.rules.min_records,
        )  # fmt: skip
        cut = sparse.csr_matrix(matrix[:, kept])
        cut.sort_indices()
        return vocabulary, cut

    def _split(self, split: dict[str, str] | None, kept: NDArray[np.int64]) -> NDArray[np.int8] | None:
        if split is None:
            return None
        number = {"train": 0, "tuning": 1, "held_out": 2}
        names = self.records.names
        unknown = [names[i] for i in kept if split.get(names[i]) not in number]
        if unknown:
            raise InputError(f"{self.path}: {len(unknown)} subjects are in none of the splits train, tuning, held_out")
        return np.array([number[split[names[i]]] for i in kept], np.int8)
