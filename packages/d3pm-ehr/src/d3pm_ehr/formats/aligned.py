"""Synthetic records read back into the vocabulary of the real ones, whatever format they were written in."""

from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.assemble import Rules
from d3pm_ehr.formats.readers import align, read_wide
from d3pm_ehr.formats.storage import load_cohort
from d3pm_ehr.formats.table import Numbering, header, read_table
from d3pm_ehr.formats.writers import meds_code
from d3pm_ehr.vocabulary import Vocabulary

PAIRS = (
    ("patient", "code"),
    ("SUBJECT_ID", "ICD9_CODE"),
    ("person_id", "condition_concept_id"),
    ("subject_id", "code"),
)


def read_aligned(path: str | Path, vocabulary: Vocabulary, unknown: Literal["error", "drop"] = "error") -> Cohort:
    """A cohort folder, a MEDS folder, or a long, wide, MIMIC-III or OMOP table.

    Args:
        path: of the records.
        vocabulary: of the real records.
        unknown: what to do with codes it does not have.

    Raises:
        InputError: for a path that is none of these, or unknown codes (names up to five, with the row of the first).
    """
    path = Path(path)
    if path.is_dir() and (path / "vocabulary.json").exists():
        return align(load_cohort(path), vocabulary, unknown)
    if path.is_dir():
        shards = sorted((path / "data").rglob("*.parquet"))
        if not shards:
            raise InputError(f"{path} is neither a cohort nor a MEDS data set")
        return _from_pairs(shards, ("subject_id", "code"), vocabulary, unknown)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    names = {name.lower() for name in header(path)}
    for record, code in PAIRS:
        if {record.lower(), code.lower()} <= names:
            return _from_pairs([path], (record, code), vocabulary, unknown)
    record_column = "patient" if "patient" in names else None
    rules = Rules("none", min_records=0, empty="keep")
    cohort, _ = read_wide(path, rules, record_column, [column.name for column in vocabulary.columns])
    return align(cohort, vocabulary, unknown)


def _lookup(vocabulary: Vocabulary) -> dict[str, tuple[int, int]]:
    """Every name a code or a level may have: to (code, 1), or (column after the codes, level)."""
    names: dict[str, tuple[int, int]] = {}
    for index, code in enumerate(vocabulary.codes):
        names |= dict.fromkeys((code, meds_code(code)), (index, 1))
    for code in vocabulary.codes:
        short = code.rpartition(":")[2]
        if short not in names:
            names[short] = (vocabulary.codes.index(code), 1) if _unique(short, vocabulary) else (-1, 0)
    for index, column in enumerate(vocabulary.columns):
        for level, text in enumerate(column.levels):
            place = (len(vocabulary.codes) + index, level)
            names |= {f"{column.name}={text}": place, f"{column.name}//{text}": place}
    return names


def _unique(short: str, vocabulary: Vocabulary) -> bool:
    return sum(code.rpartition(":")[2] == short for code in vocabulary.codes) == 1


def _from_pairs(
    files: list[Path], columns: tuple[str, str], vocabulary: Vocabulary, unknown: Literal["error", "drop"]
) -> Cohort:
    names, records = _lookup(vocabulary), Numbering()
    rows, places, levels = [], [], []
    unseen: dict[str, str] = {}
    for file in files:
        for piece in read_table(file, columns):
            numbers = records(piece.columns[columns[0]])
            found = [names.get(text.strip(), (-1, 0)) for text in piece.columns[columns[1]]]
            for i, (text, place) in enumerate(zip(piece.columns[columns[1]], found, strict=True)):
                if place[0] < 0 and text.strip():
                    unseen.setdefault(text, f"{file}, row {piece.first + i}, column {columns[1]}")
            array = np.array(found, np.int64).reshape(-1, 2)
            known = array[:, 0] >= 0
            rows.append(numbers[known])
            places.append(array[known, 0])
            levels.append(array[known, 1])
    if unseen and unknown == "error":
        first = next(iter(unseen.values()))
        raise InputError(f"{first}: {len(unseen)} codes are not in the vocabulary: {', '.join(list(unseen)[:5])} "
                         "(--align leaves them out)")  # fmt: skip
    row, column, level = np.concatenate(rows), np.concatenate(places), np.concatenate(levels)
    split, count = len(vocabulary.codes), len(records.index)
    code = column < split
    matrix = sparse.csr_matrix((np.ones(int(code.sum()), np.uint8), (row[code], column[code])), shape=(count, split))
    matrix.data[:] = 1
    table = np.zeros((count, len(vocabulary.columns)), np.uint8)
    table[row[~code], column[~code] - split] = level[~code]
    return Cohort(vocabulary, matrix, table)
