"""The public-use file of the US National Hospital Discharge Survey, in the official fixed-width layout.

One line a discharge of 149 characters; there is no patient identifier, so a record is a discharge. The survey asks that
its data be used for statistical purposes only and that nobody try to identify a person or hospital.
"""

import bz2
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.assemble import Pairs, Rules
from d3pm_ehr.formats.icd import ICD9, check_truncation, truncate_icd
from d3pm_ehr.vocabulary import Column, Vocabulary

LINE = 149
AGE_UNIT, AGE, SEX, STATUS = slice(3, 4), slice(4, 6), slice(6, 7), slice(11, 12)
DIAGNOSES = [slice(27 + 5 * i, 32 + 5 * i) for i in range(15)]
AGES = ("0-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90+")
COLUMNS = (Column("age", AGES), Column("sex", ("male", "female")), Column("died", ("no", "yes")))
PIECE = 20_000
_RULES = Rules(min_records=10)


def read_nhds(path: str | Path, rules: Rules = _RULES) -> tuple[Cohort, None]:
    """Diagnoses, age band, sex and in-hospital death of every discharge.

    Args:
        path: NHDS*.PU.txt, plain or compressed (.bz2, .gz).
        rules: truncation and cuts.

    Raises:
        InputError: for a line of another length, an age, sex or diagnosis that is none, or a cut file (with its row).
    """
    path = Path(path)
    check_truncation(rules.truncate)
    pairs = Pairs(path, "diagnoses", rules)
    levels: list[tuple[int, int, int]] = []

    def key(code: str) -> str:
        text = code.replace("-", "").strip()
        if not text:
            return ""
        if not ICD9.fullmatch(text):
            raise InputError(f"{code!r} is not an ICD-9 code")
        return f"ICD9CM:{truncate_icd(text, 9, rules.truncate)}"

    for first, lines in _pieces(path):
        records, codes, rows = [], [], []
        for number, line in enumerate(lines, start=first):
            levels.append(_levels(path, number, line))
            for place in DIAGNOSES:
                if line[place].strip("- "):
                    records.append(str(number))
                    codes.append(line[place])
                    rows.append(number)
        _add(pairs, first, lines, records, codes, rows, key)
    cohort, _ = pairs.cohort()
    table = np.array(levels, np.uint8)
    kept = np.array([int(name) - 1 for name in pairs.records.names])
    if rules.empty == "drop":
        kept = kept[np.flatnonzero(_kept(pairs, cohort))]
    vocabulary = Vocabulary(
        cohort.vocabulary.codes, COLUMNS, rules.truncate, cohort.vocabulary.counts, rules.min_records
    )
    return Cohort(vocabulary, cohort.codes, table[kept], None, cohort.info), None


def _add(
    pairs: Pairs,
    first: int,
    lines: list[str],
    records: list[str],
    codes: list[str],
    rows: list[int],
    key: Callable[[str], str],
) -> None:
    """Rows here are diagnoses: an error is told with the line of its discharge."""
    keys: dict[str, str] = {}
    for code, row in zip(codes, rows, strict=True):
        if code not in keys:
            try:
                keys[code] = key(code)
            except InputError as error:
                if pairs.rules.invalid == "drop":
                    keys[code] = ""
                    continue
                raise InputError(f"{pairs.path}, row {row}, column diagnoses: {error}") from error
    everyone = [str(first + i) for i in range(len(lines))]
    pairs.first_row |= {first + i - 1: first + i for i in range(len(lines))}
    pairs.records(everyone)
    has = [i for i, code in enumerate(codes) if keys[code]]
    pairs.count("rows", len(lines))
    pairs.rows.append(pairs.records([records[i] for i in has]))
    pairs.values.append(pairs.codes([keys[codes[i]] for i in has]))


def _kept(pairs: Pairs, cohort: Cohort) -> np.ndarray:
    known = set(cohort.vocabulary.codes)
    names = pairs.codes.names
    good = np.array([name in known for name in names])
    full = np.zeros(len(pairs.records.index), bool)
    for rows, values in zip(pairs.rows, pairs.values, strict=True):
        full[rows[good[values]]] = True
    return full


def _levels(path: Path, row: int, line: str) -> tuple[int, int, int]:
    if len(line) != LINE:
        raise InputError(
            f"{path}, row {row}: expected {LINE} characters, got {len(line)}: the file is cut or another one"
        )
    unit, age, sex, status = line[AGE_UNIT], line[AGE].strip(), line[SEX], line[STATUS]
    if unit not in "123" or not age.isdigit() or sex not in "12":
        raise InputError(f"{path}, row {row}, columns 4-7: expected age unit, age and sex, got {line[3:7]!r}")
    years = int(age) if unit == "1" else 0
    return min(years // 10, 9), int(sex) - 1, int(status == "6")


def _pieces(path: Path) -> Iterator[tuple[int, list[str]]]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    opened = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    lines: list[str] = []
    first = 1
    try:
        with opened(path, "rt", encoding="ascii", newline="\n") as file:
            for line in file:
                lines.append(line.rstrip("\r\n"))
                if len(lines) == PIECE:
                    yield first, lines
                    first, lines = first + PIECE, []
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}, row {first + len(lines)}: the file is cut or not text ({error})") from error
    if lines:
        yield first, lines
    elif first == 1:
        raise InputError(f"{path} is empty")
