"""Readers of plain tables: long (one code a row) and wide (a 0/1 column for each code)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.assemble import Pairs, Rules
from d3pm_ehr.formats.icd import check_truncation
from d3pm_ehr.formats.readers import Read, icd_key
from d3pm_ehr.formats.table import header, read_table
from d3pm_ehr.vocabulary import Vocabulary

_RULES = Rules("none")


def read_long(
    path: str | Path,
    rules: Rules = _RULES,
    record_column: str = "patient",
    code_column: str = "code",
    icd: Literal["9", "10"] | None = None,
) -> Read:
    """A table with one (record, code) a row, csv or parquet; a blank code marks a record without codes.

    Args:
        path: the file.
        rules: a number as `truncate` cuts codes to so many characters; `icd3` needs `icd`.
        record_column: name of the record's identifier.
        code_column: name of the code.
        icd: the codes are of this ICD version: checked, cleaned of dots and named `ICD9CM:` or `ICD10CM:`; any texts
            by default.

    Raises:
        InputError: for `icd3` without a version, a missing column, what is no code of it, codes stored as
            numbers, empty records, a cut file.
    """
    check_truncation(rules.truncate)
    if icd not in ("9", "10", None):
        raise InputError(f"--icd of a long table must be 9 or 10 (all its codes are of one version), got {icd}")
    if rules.truncate == "icd3" and icd is None:
        raise InputError("--truncate icd3 needs the version of a long table's codes: --icd 9 or 10")
    path = Path(path)
    pairs = Pairs(path, code_column, rules)
    cut = int(rules.truncate) if rules.truncate.isdigit() else None
    key = icd_key(int(icd), rules.truncate) if icd else lambda code: code.strip()[:cut]
    for piece in read_table(path, [record_column, code_column], text=[code_column]):
        records = piece.columns[record_column]
        if "" in records:
            row = piece.first + records.index("")
            raise InputError(f"{path}, row {row}, column {record_column}: the record's identifier is blank")
        pairs.add(piece.first, records, piece.columns[code_column], key)
    return pairs.cohort()


def read_wide(
    path: str | Path,
    rules: Rules = _RULES,
    record_column: str | None = None,
    categorical: Sequence[str] = (),
) -> Read:
    """A table with a 0/1 column for each code and any categorical columns, csv or parquet.

    Args:
        path: the file.
        rules: cuts.
        record_column: an identifier to leave out.
        categorical: names of the categorical columns (`""` is a level of its own).

    Raises:
        InputError: for a value that is not 0 or 1, more than 254 levels, empty records, a cut file.
    """
    path = Path(path)
    names = header(path)
    missing = [name for name in (*categorical, *([record_column] if record_column else [])) if name not in names]
    if missing:
        raise InputError(f"{path}, row 1: there is no column {missing[0]!r}; columns: {', '.join(names[:12])}")
    codes = [name for name in names if name != record_column and name not in categorical]
    blocks: list[np.ndarray] = []
    columns: list[list[str]] = [[] for _ in categorical]
    first: int | None = None
    for piece in read_table(path, [*codes, *categorical]):
        first = piece.first if first is None else first
        blocks.append(_ones(path, piece.first, codes, piece.columns))
        for values, name in zip(columns, categorical, strict=True):
            values += piece.columns[name]
    cohort = Cohort.from_arrays(np.concatenate(blocks), codes, dict(zip(categorical, columns, strict=True)))
    return _finish_wide(cohort, rules, path, first or 2), None


def _ones(path: Path, first: int, codes: Sequence[str], columns: dict[str, list[str]]) -> np.ndarray:
    values = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}
    block = np.zeros((len(next(iter(columns.values()))), len(codes)), np.uint8)
    for index, name in enumerate(codes):
        own = [values.get(value, 2) for value in columns[name]]
        if 2 in own:
            row = own.index(2)
            raise InputError(f"{path}, row {first + row}, column {name}: expected 0 or 1, got {columns[name][row]!r}")
        block[:, index] = own
    return block


def _finish_wide(cohort: Cohort, rules: Rules, path: Path, first: int) -> Cohort:
    empty = np.flatnonzero(cohort.lengths() == 0)
    if len(empty) and rules.empty == "error" and cohort.vocabulary.codes:
        where = f"{path}, row {first + int(empty[0])}, columns {cohort.vocabulary.codes[0]} .."
        raise InputError(
            f"{where}: this record has no code, and {len(empty) - 1} more have none; "
            "--empty keep or --empty drop says what to do"
        )
    frequency = np.bincount(cohort.codes.indices, minlength=cohort.codes.shape[1])
    order = np.argsort(-frequency, kind="stable")[: rules.max_codes]
    kept = np.sort(order[frequency[order] >= rules.min_records])
    chosen = Vocabulary(
        tuple(cohort.vocabulary.codes[i] for i in kept), cohort.vocabulary.columns, "none",
        tuple(int(frequency[i]) for i in kept), rules.min_records,
    )  # fmt: skip
    counts = {"source": path.name, "records": len(cohort), "records without a code in the source": len(empty)}
    cohort = Cohort(chosen, sparse.csr_matrix(cohort.codes[:, kept]), cohort.columns, None, counts)
    return cohort.without_empty() if rules.empty == "drop" else cohort
