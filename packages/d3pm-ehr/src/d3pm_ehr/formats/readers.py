"""Readers: one function a source format, all giving a cohort without identifiers, and the patient of each visit."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.formats.assemble import Pairs, Rules
from d3pm_ehr.formats.icd import check_truncation, clean_icd, truncate_icd
from d3pm_ehr.formats.table import header, read_table

RecordUnit = Literal["patient", "visit"]
Read = tuple[Cohort, Any]
_RULES = Rules()


def read_mimic3(path: str | Path, rules: Rules = _RULES, record: RecordUnit = "patient") -> Read:
    """MIMIC-III DIAGNOSES_ICD (ROW_ID, SUBJECT_ID, HADM_ID, SEQ_NUM, ICD9_CODE), upper or lower case, csv or csv.gz.

    Args:
        path: the file.
        rules: truncation and cuts.
        record: the union of a patient's visits, or each visit.

    Raises:
        InputError: for a missing column, a code that is none, lost leading zeros, empty records, a cut file.
    """
    check_truncation(rules.truncate)
    pairs = Pairs(Path(path), "ICD9_CODE", rules)
    for piece in read_table(Path(path), ["SUBJECT_ID", "HADM_ID", "ICD9_CODE"], text=["ICD9_CODE"]):
        records = _records(pairs, piece.columns["SUBJECT_ID"], piece.columns["HADM_ID"], record, piece.first)
        pairs.add(piece.first, records, piece.columns["ICD9_CODE"], icd_key(9, rules.truncate))
    return pairs.cohort()


def read_mimic4(
    path: str | Path,
    rules: Rules = _RULES,
    record: RecordUnit = "patient",
    icd: Literal["9", "10", "both"] | None = None,
) -> Read:
    """MIMIC-IV diagnoses_icd (subject_id, hadm_id, seq_num, icd_code, icd_version).

    Args:
        path: the file.
        rules: truncation and cuts.
        record: the union of a patient's visits, or each visit.
        icd: which version to keep; `both` keeps them as different codes. Needed where both are there.

    Raises:
        InputError: as `read_mimic3`, and for mixed versions without a choice.
    """
    check_truncation(rules.truncate)
    pairs = Pairs(Path(path), "icd_code", rules)
    first_seen: dict[str, int] = {}
    for piece in read_table(Path(path), ["subject_id", "hadm_id", "icd_code", "icd_version"], text=["icd_code"]):
        versions = [value.strip() for value in piece.columns["icd_version"]]
        for version in dict.fromkeys(versions):
            if version not in ("9", "10"):
                row = piece.first + versions.index(version)
                raise InputError(f"{path}, row {row}, column icd_version: expected 9 or 10, got {version!r}")
            first_seen.setdefault(version, piece.first + versions.index(version))
        if icd is None and len(first_seen) > 1:
            row = max(first_seen.values())
            raise InputError(f"{path}, row {row}, column icd_version: ICD-9 and ICD-10 are mixed; --icd 9, 10 or both")
        records = _records(pairs, piece.columns["subject_id"], piece.columns["hadm_id"], record, piece.first)
        codes = piece.columns["icd_code"]
        tagged = [f"{version}:{code}" for version, code in zip(versions, codes, strict=True)]
        pairs.add(piece.first, records, tagged, _tagged_key(icd, rules.truncate))
    return pairs.cohort()


def read_omop(path: str | Path, rules: Rules = _RULES, record: RecordUnit = "patient") -> Read:
    """OMOP condition_occurrence (person_id, condition_concept_id, ...), any case; concept 0 is unmapped and counted.

    Args:
        path: the file (csv or parquet).
        rules: cuts; concepts are not truncated.
        record: patient, or visit (by visit_occurrence_id).

    Raises:
        InputError: for a missing column, a concept that is no number, empty records, a cut file.
    """
    path = Path(path)
    visit = ["visit_occurrence_id"] if record == "visit" else []
    pairs = Pairs(path, "condition_concept_id", rules)

    def key(code: str) -> str:
        text = code.strip().removesuffix(".0")
        if not text:
            return ""
        if not text.isdigit():
            raise InputError(f"a concept id is a number, got {code!r}")
        return "" if int(text) == 0 else f"OMOP:{int(text)}"

    for piece in read_table(path, ["person_id", "condition_concept_id", *visit]):
        persons, concepts = piece.columns["person_id"], piece.columns["condition_concept_id"]
        visits = piece.columns[visit[0]] if visit else persons
        records = _records(pairs, persons, visits, record, piece.first)
        pairs.count("rows with concept 0 (unmapped)", sum(value.strip() in ("0", "0.0") for value in concepts))
        pairs.add(piece.first, records, concepts, key)
    return pairs.cohort()


def read_meds(path: str | Path, rules: Rules = _RULES, prefixes: Sequence[str] = ("DIAGNOSIS//",)) -> Read:
    """A MEDS data set: data/**/*.parquet, and its subject splits where it has them.

    Args:
        path: the folder.
        rules: `truncate` cuts what follows the last `//`: icd3 by the version before it (`ICD//9`), none, or a number.
        prefixes: only codes that begin with one of these.

    Raises:
        InputError: for a folder that is no MEDS data set, or a shard that the meds package does not accept.
    """
    import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]
    from meds.schema import DataSchema, data_subdirectory, subject_splits_filepath

    check_truncation(rules.truncate)
    root = Path(path)
    shards = sorted((root / data_subdirectory).rglob("*.parquet"))
    if not shards:
        raise InputError(f"{root} is no MEDS data set: there is no {data_subdirectory}/*.parquet")
    pairs = Pairs(root, "code", rules)
    key = _meds_key(tuple(prefixes), rules.truncate)
    for shard in shards:
        try:
            table = DataSchema.align(pyarrow.parquet.read_table(shard))
        except Exception as error:  # the schema package raises its own kinds
            raise InputError(f"{shard}: {' '.join(str(error).split())}") from error
        pairs.path = shard
        subjects = [str(value) for value in table.column("subject_id").to_pylist()]
        pairs.add(1, subjects, table.column("code").to_pylist(), key)
    pairs.path = root
    if not pairs.codes.index:
        raise InputError(f"{root}: no code begins with {', '.join(prefixes)}; --prefix says what the codes begin with")
    split = None
    if (root / subject_splits_filepath).exists():
        table = pyarrow.parquet.read_table(root / subject_splits_filepath)
        numbers = map(str, table.column("subject_id").to_pylist())
        split = dict(zip(numbers, table.column("split").to_pylist(), strict=True))
    return pairs.cohort(split)


def _records(pairs: Pairs, patients: list[str], visits: list[str], record: RecordUnit, first: int) -> list[str]:
    if record == "patient":
        return patients
    for i, (patient, visit) in enumerate(zip(patients, visits, strict=True)):
        if not visit:
            raise InputError(f"{pairs.path}, row {first + i}: the visit's identifier is blank, so this is no visit; "
                             "--record patient takes it")  # fmt: skip
        (number,) = pairs.records([f"{patient}/{visit}"])
        pairs.first_row.setdefault(int(number), first + i)
        pairs.groups[int(number)] = int(pairs.patients([patient])[0])
    return [f"{patient}/{visit}" for patient, visit in zip(patients, visits, strict=True)]


def icd_key(version: int, truncation: str) -> Callable[[str], str]:
    """Source codes of one version to vocabulary keys."""
    system = {9: "ICD9CM", 10: "ICD10CM"}[version]

    def key(code: str) -> str:
        clean = clean_icd(code, version)
        return f"{system}:{truncate_icd(clean, version, truncation)}" if clean else ""

    return key


def _tagged_key(icd: str | None, truncation: str) -> Callable[[str], str]:
    nine, ten = icd_key(9, truncation), icd_key(10, truncation)

    def key(tagged: str) -> str:
        version, _, code = tagged.partition(":")
        if icd in ("9", "10") and version != icd:
            return ""
        return nine(code) if version == "9" else ten(code)

    return key


def _meds_key(prefixes: tuple[str, ...], truncation: str) -> Callable[[str], str]:
    def key(code: str) -> str:
        if not code.startswith(prefixes):
            return ""
        head, separator, tail = code.rpartition("//")
        if truncation == "icd3" and ("ICD//9" in head or "ICD9" in head):
            tail = truncate_icd(clean_icd(tail, 9), 9, truncation)
        elif truncation == "icd3" and ("ICD//10" in head or "ICD10" in head):
            tail = truncate_icd(clean_icd(tail, 10), 10, truncation)
        elif truncation.isdigit():
            tail = tail[: int(truncation)]
        return head + separator + tail

    return key


def detect(path: Path) -> str:
    """The format of a file or folder, by its name and columns.

    Raises:
        InputError: where it cannot be told.
    """
    if path.is_dir() and not (path / "data").is_dir():
        raise InputError(f"{path} is a folder without data/*.parquet, so no MEDS data set; name the table in it")
    if path.is_dir():
        return "meds"
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.name.upper().startswith("NHDS"):
        return "nhds"
    names = {name.lower() for name in header(path)}
    for known, columns in {
        "mimic3": {"subject_id", "hadm_id", "icd9_code"},
        "mimic4": {"subject_id", "icd_code", "icd_version"},
        "omop": {"person_id", "condition_concept_id"},
        "long": {"patient", "code"},
    }.items():
        if columns <= names:
            return known
    raise InputError(f"{path}: cannot tell the format from its columns {json.dumps(sorted(names)[:8])}; give --format")
