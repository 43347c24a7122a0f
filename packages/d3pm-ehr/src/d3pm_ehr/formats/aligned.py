"""Synthetic records read back into the vocabulary of the real ones, whatever format they were written in."""

import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.assemble import Rules
from d3pm_ehr.formats.plain import read_wide
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
    columns = header(path)
    names = {name.lower() for name in columns}
    for record, code in PAIRS:
        if {record.lower(), code.lower()} <= names:
            return _from_pairs([path], (record, code), vocabulary, unknown)
    record_column = next((name for name in columns if name.lower() == "patient"), None)
    rules = Rules("none", min_records=0, empty="keep")
    cohort, _ = read_wide(path, rules, record_column, [column.name for column in vocabulary.columns])
    return align(cohort, vocabulary, unknown)


def align(cohort: Cohort, vocabulary: Vocabulary, unknown: Literal["error", "drop"] = "error") -> Cohort:
    """The cohort in the order of another vocabulary; codes it lacks are absent.

    Args:
        cohort: records.
        vocabulary: wanted.
        unknown: what to do with codes it does not know.

    Raises:
        InputError: for unknown codes, columns or levels.
    """
    place = {code: i for i, code in enumerate(vocabulary.codes)}
    unseen = [code for code in cohort.vocabulary.codes if code not in place]
    if unseen and unknown == "error":
        raise InputError(f"{len(unseen)} codes are not in the vocabulary: {', '.join(unseen[:5])} (--align drops them)")
    kept = [i for i, code in enumerate(cohort.vocabulary.codes) if code in place]
    coo = cohort.codes[:, kept].tocoo()
    target = np.array([place[cohort.vocabulary.codes[i]] for i in kept], np.int64)
    codes = sparse.csr_matrix((coo.data, (coo.row, target[coo.col])), shape=(len(cohort), len(vocabulary.codes)))
    own = {column.name: i for i, column in enumerate(cohort.vocabulary.columns)}
    columns = np.zeros((len(cohort), len(vocabulary.columns)), np.uint8)
    for index, column in enumerate(vocabulary.columns):
        if column.name not in own:
            raise InputError(f"the records have no column {column.name!r}")
        levels = cohort.vocabulary.columns[own[column.name]].levels
        strange = [level for level in levels if level not in column.levels]
        if strange:
            raise InputError(f"column {column.name!r} has no level {strange[0]!r} in the vocabulary")
        columns[:, index] = np.array([column.levels.index(level) for level in levels])[
            cohort.columns[:, own[column.name]]
        ]
    return Cohort(vocabulary, codes, columns, cohort.split, cohort.info)


def _lookup(vocabulary: Vocabulary) -> dict[str, tuple[int, int]]:
    """Every name a code or a level may have: to (code, 1), or (column after the codes, level)."""
    short = [re.split(":|//", code)[-1] for code in vocabulary.codes]
    count = Counter(short)
    names = {text: (index, 1) for index, text in enumerate(short) if count[text] == 1}
    for index, code in enumerate(vocabulary.codes):
        names |= dict.fromkeys((code, meds_code(code)), (index, 1))
    for index, column in enumerate(vocabulary.columns):
        for level, text in enumerate(column.levels):
            place = (len(vocabulary.codes) + index, level)
            names |= {f"{column.name}={text}": place, f"{column.name}//{text}": place}
    return names


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
