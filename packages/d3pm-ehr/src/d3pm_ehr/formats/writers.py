"""Synthetic records out, in pieces: long, wide, MIMIC-III, OMOP, MEDS. Identifiers are running numbers, made here."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.csv  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]
from jaxtyping import UInt8
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_json
from torch import Tensor

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.storage import check_out, save_cohort
from d3pm_ehr.vocabulary import Vocabulary

OutFormat = Literal["auto", "long", "wide", "mimic3", "omop", "meds", "cohort"]
Pieces = Iterable[UInt8[Tensor, "rows columns"]]
EPOCH = datetime(2000, 1, 1, tzinfo=UTC).replace(
    tzinfo=None
)  # events need a time; synthetic ones have none of their own


def check_destination(out: Path, format: OutFormat) -> OutFormat:
    """Settle `auto` (by the suffix: .csv and .parquet are long, no suffix is a cohort folder) and refuse to overwrite.

    Raises:
        InputError: if something is there, or the suffix does not fit the format.
    """
    table = out.suffix in (".csv", ".parquet")
    chosen: OutFormat = format if format != "auto" else ("long" if table else "cohort")
    if chosen in ("long", "wide", "mimic3", "omop") and not table:
        raise InputError(f"--out {out}: format {chosen} needs a file name ending in .csv or .parquet")
    if chosen in ("meds", "cohort") and table:
        raise InputError(f"--out {out}: format {chosen} is a folder")
    check_out(out)
    return chosen


def write_records(vocabulary: Vocabulary, pieces: Pieces, out: str | Path, format: OutFormat = "auto") -> int:
    """Write records as they come, so that a large cohort is never held; returns how many.

    Args:
        vocabulary: of the records.
        pieces: tokens in the layout's order.
        out: file or folder, which appears whole.
        format: see `check_destination`.

    Raises:
        InputError: for a destination that cannot be used, or codes that the format cannot hold.
    """
    path = Path(out)
    chosen = check_destination(path, format)
    if chosen == "cohort":
        import torch

        cohort = Cohort.from_tokens(vocabulary, torch.cat(list(pieces)))
        save_cohort(cohort, path)
        return len(cohort)
    if chosen == "meds":
        return _write_meds(vocabulary, pieces, path)
    table = {"long": _long, "wide": _wide, "mimic3": _mimic3, "omop": _omop}[chosen]
    make = table(vocabulary)
    rows = 0
    with atomic_path(path) as aside, _table_writer(aside, path.suffix) as write:
        for tokens in pieces:
            write(make(Cohort.from_tokens(vocabulary, tokens), rows))
            rows += len(tokens)
    return rows


@contextmanager
def _table_writer(path: Path, suffix: str) -> Iterator[Callable[[pa.Table], None]]:
    writer: pa.csv.CSVWriter | pa.parquet.ParquetWriter | None = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = (pa.csv.CSVWriter if suffix == ".csv" else pa.parquet.ParquetWriter)(path, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def _pairs(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Row and code number of every present code, in order of rows."""
    return np.repeat(np.arange(len(cohort)), cohort.lengths()), cohort.codes.indices


def _names(first: int, rows: np.ndarray) -> list[str]:
    return [f"synthetic-{first + int(row) + 1:07d}" for row in rows]


def _long(vocabulary: Vocabulary) -> Callable[[Cohort, int], pa.Table]:
    """One (patient, code) a row; a blank code for a record without any; a level of a column as COLUMN=LEVEL."""
    codes = np.array([*vocabulary.codes, ""])

    def make(cohort: Cohort, first: int) -> pa.Table:
        rows, values = _pairs(cohort)
        keys = [codes[values]]
        parts = [rows]
        for index, column in enumerate(vocabulary.columns):
            parts.append(np.arange(len(cohort)))
            levels = np.array([f"{column.name}={level}" for level in column.levels])
            keys.append(levels[cohort.columns[:, index]])
        bare = np.flatnonzero(cohort.lengths() == 0)
        if not vocabulary.columns:
            parts.append(bare)
            keys.append(codes[np.full(len(bare), -1)])
        row, key = np.concatenate(parts), np.concatenate(keys)
        order = np.argsort(row, kind="stable")
        return pa.table({"patient": _names(first, row[order]), "code": key[order].tolist()})

    return make


def _wide(vocabulary: Vocabulary) -> Callable[[Cohort, int], pa.Table]:
    def make(cohort: Cohort, first: int) -> pa.Table:
        dense = cohort.codes.toarray()
        table: dict[str, Any] = {"patient": _names(first, np.arange(len(cohort)))}
        table |= {code: dense[:, index] for index, code in enumerate(vocabulary.codes)}
        for index, column in enumerate(vocabulary.columns):
            table[column.name] = np.array(column.levels)[cohort.columns[:, index]].tolist()
        return pa.table(table)

    return make


def _mimic3(vocabulary: Vocabulary) -> Callable[[Cohort, int], pa.Table]:
    plain = _stripped(vocabulary, "ICD9CM:", "mimic3")

    def make(cohort: Cohort, first: int) -> pa.Table:
        rows, values = _pairs(cohort)
        place = np.arange(len(rows)) - np.repeat(cohort.codes.indptr[:-1], cohort.lengths()) + 1
        number = first + rows + 1
        return pa.table(
            {"SUBJECT_ID": number, "HADM_ID": number, "SEQ_NUM": place, "ICD9_CODE": plain[values].tolist()}
        )

    return make


def _omop(vocabulary: Vocabulary) -> Callable[[Cohort, int], pa.Table]:
    plain = _stripped(vocabulary, "OMOP:", "omop").astype(np.int64)
    day = EPOCH.date()

    def make(cohort: Cohort, first: int) -> pa.Table:
        rows, values = _pairs(cohort)
        return pa.table(
            {"person_id": first + rows + 1, "condition_concept_id": plain[values],
             "condition_start_date": pa.array([day] * len(rows), pa.date32())}
        )  # fmt: skip

    return make


def _stripped(vocabulary: Vocabulary, system: str, format: str) -> np.ndarray:
    foreign = [code for code in vocabulary.codes if not code.startswith(system)]
    if foreign:
        raise InputError(f"--format {format} holds {system[:-1]} codes only; the vocabulary has {foreign[0]!r}")
    return np.array([code.removeprefix(system) for code in vocabulary.codes])


def _write_meds(vocabulary: Vocabulary, pieces: Pieces, path: Path) -> int:
    """data/0.parquet, 1.parquet, ... (a piece each), codes, splits and dataset.json, checked by the meds package."""
    from meds import schema as meds

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=".part"))
    levels = [f"{column.name}//{level}" for column in vocabulary.columns for level in column.levels]
    codes = [meds_code(code) for code in vocabulary.codes]
    rows = 0
    try:
        (aside / meds.data_subdirectory).mkdir()
        (aside / "metadata").mkdir()
        for shard, tokens in enumerate(pieces):
            table = _meds_table(vocabulary, codes, Cohort.from_tokens(vocabulary, tokens), rows)
            pa.parquet.write_table(table, aside / meds.data_subdirectory / f"{shard}.parquet")
            rows += len(tokens)
        table = pa.table({"code": [*codes, *levels], "description": pa.nulls(len(codes) + len(levels), pa.string()),
                          "parent_codes": pa.nulls(len(codes) + len(levels), pa.list_(pa.string()))})  # fmt: skip
        pa.parquet.write_table(meds.CodeMetadataSchema.align(table), aside / meds.code_metadata_filepath)
        subjects = pa.array(np.arange(1, rows + 1), pa.int64())
        splits = pa.table({"subject_id": subjects, "split": pa.array([meds.train_split] * rows, pa.string())})
        pa.parquet.write_table(meds.SubjectSplitSchema.align(splits), aside / meds.subject_splits_filepath)
        write_json(aside / meds.dataset_metadata_filepath, {
            "dataset_name": "synthetic records", "etl_name": "d3pm-ehr", "meds_version": version("meds"),
        })  # fmt: skip
        aside.chmod(0o755)
        if path.exists():
            path.rmdir()
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return rows


def _meds_table(vocabulary: Vocabulary, codes: list[str], cohort: Cohort, first: int) -> pa.Table:
    from meds import schema as meds

    rows, values = _pairs(cohort)
    parts, keys, timed = [rows], [np.array(codes, object)[values]], [np.ones(len(rows), bool)]
    for index, column in enumerate(vocabulary.columns):
        parts.append(np.arange(len(cohort)))
        keys.append(np.array([f"{column.name}//{level}" for level in column.levels], object)[cohort.columns[:, index]])
        timed.append(np.zeros(len(cohort), bool))
    subject, key, dated = np.concatenate(parts), np.concatenate(keys), np.concatenate(timed)
    order = np.lexsort((dated, subject))  # a subject's rows together, static ones first
    times = pa.array([EPOCH if flag else None for flag in dated[order]], pa.timestamp("us"))
    table = pa.table({"subject_id": pa.array(first + subject[order] + 1, pa.int64()), "time": times,
                      "code": pa.array(key[order].tolist(), pa.string())})  # fmt: skip
    return meds.DataSchema.align(table)


def meds_code(code: str) -> str:
    """The name of a code in a MEDS data set of MIMIC: `ICD9CM:250` is `DIAGNOSIS//ICD//9//250`."""
    for system, prefix in (("ICD9CM:", "DIAGNOSIS//ICD//9//"), ("ICD10CM:", "DIAGNOSIS//ICD//10//")):
        if code.startswith(system):
            return prefix + code.removeprefix(system)
    return code
