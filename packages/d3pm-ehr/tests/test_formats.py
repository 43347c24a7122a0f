"""Tables in and out, with the row and column of what is wrong."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from d3pm_ehr import Cohort, embedded_cohort
from d3pm_ehr.embedded import embedded_law
from d3pm_ehr.formats.aligned import align, read_aligned
from d3pm_ehr.formats.assemble import Rules
from d3pm_ehr.formats.icd import clean_icd, truncate_icd
from d3pm_ehr.formats.nhds import read_nhds
from d3pm_ehr.formats.plain import read_long, read_wide
from d3pm_ehr.formats.readers import (
    detect,
    read_meds,
    read_mimic3,
    read_mimic4,
    read_omop,
)
from d3pm_ehr.formats.storage import load_cohort, save_cohort
from d3pm_ehr.formats.writers import write_records
from d3pm_ehr.vocabulary import Vocabulary
from shared_core.errors import InputError

ALL = Rules(min_records=0)
PLAIN = Rules("none", min_records=0)
ICD3 = Rules("icd3", min_records=0)
MIMIC3 = """ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE
1,10,100,1,0389
2,10,100,2,25000
3,10,101,1,25002
4,11,102,1,E8499
5,11,102,2,V4581
6,12,103,1,0389
"""
MIMIC4 = """subject_id,hadm_id,seq_num,icd_code,icd_version
10,100,1,25000,9
10,101,1,E119,10
11,102,1,E1165,10
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_codes_are_text_and_cut_per_system() -> None:
    assert [truncate_icd(clean_icd(c, 9), 9, "icd3") for c in ("038.9", "V45.81", "e849.9", "25000")] == [
        "038", "V45", "E849", "250",
    ]  # fmt: skip
    assert truncate_icd(clean_icd("E11.65", 10), 10, "icd3") == "E11"  # not E116: ICD-10's E is no external cause
    assert truncate_icd("25000", 9, "4") == "2500"
    assert clean_icd(" ", 9) == ""
    for bad in ("389.0.1", "41", "25000.0", "abc"):
        with pytest.raises(InputError):
            clean_icd(bad, 9)


def test_mimic3_is_the_union_of_visits_and_keeps_leading_zeros(tmp_path: Path) -> None:
    cohort, groups = read_mimic3(write(tmp_path / "d.csv", MIMIC3), ALL)
    assert cohort.vocabulary.codes == ("ICD9CM:038", "ICD9CM:250", "ICD9CM:E849", "ICD9CM:V45")
    assert cohort.codes.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]
    assert groups is None
    visits, groups = read_mimic3(
        write(tmp_path / "lower.csv", MIMIC3.lower().upper().replace("SUBJECT_ID", "subject_id")), ALL, "visit"
    )
    assert len(visits) == 4
    assert groups.tolist() == [0, 0, 1, 2]
    split = visits.with_split(0, (0.3, 0.3), groups).split
    assert split is not None
    assert split[0] == split[1]  # one patient's visits stay together
    with gzip.open(tmp_path / "d.csv.gz", "wt") as file:
        file.write(MIMIC3)
    assert read_mimic3(tmp_path / "d.csv.gz", ALL)[0].codes.toarray().tolist() == cohort.codes.toarray().tolist()


def test_mimic4_keeps_versions_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", MIMIC4)
    with pytest.raises(InputError, match=r"d\.csv, row 3, column icd_version: ICD-9 and ICD-10 are mixed"):
        read_mimic4(path, ALL)
    both, _ = read_mimic4(path, ALL, icd="both")
    assert both.vocabulary.codes == ("ICD10CM:E11", "ICD9CM:250")
    ten, _ = read_mimic4(path, ALL, icd="10")
    assert ten.vocabulary.codes == ("ICD10CM:E11",)
    with pytest.raises(InputError, match="row 2, column icd_version: expected 9 or 10, got '8'"):
        read_mimic4(write(tmp_path / "v.csv", MIMIC4.replace("25000,9", "25000,8")), ALL)


BAD_MIMIC3 = {
    "lost zeros": (MIMIC3.replace("2,25000", "2,41"), "row 3, column ICD9_CODE: '41' was read as a number"),
    "floats": (MIMIC3.replace("2,25000", "2,25000.0"), "row 3, column ICD9_CODE: '25000.0' was read as a number"),
    "no code": (MIMIC3.replace("E8499", "hello"), "row 5, column ICD9_CODE: 'hello' is not an ICD-9 code"),
    "blank": (MIMIC3.replace("103,1,0389", "103,1,"), "row 7, column ICD9_CODE: this record has no code"),
    "cut": (MIMIC3[:-12], "row 7: Expected 5 columns, got 2$"),
    "column": (MIMIC3.replace("ICD9_CODE", "CODE"), "row 1: there is no column 'ICD9_CODE'; columns: ROW_ID"),
    "twice": (MIMIC3.replace("SEQ_NUM", "ROW_ID"), "row 1: column 'ROW_ID' is there twice"),
    "header only": (MIMIC3.splitlines()[0] + "\n", "has a header and no rows"),
    "empty": ("", "the file is empty"),
}


@pytest.mark.parametrize("case", BAD_MIMIC3)
def test_bad_tables_are_told_with_file_row_and_column(case: str, tmp_path: Path) -> None:
    text, words = BAD_MIMIC3[case]
    with pytest.raises(InputError) as caught:
        read_mimic3(write(tmp_path / "bad.csv", text), ALL)
    message = str(caught.value)
    assert "bad.csv" in message
    assert "\n" not in message
    assert message.endswith(words[:-1]) if words.endswith("$") else words in message, message


def test_a_cut_compressed_file_is_told(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "d.csv.gz", "wt") as file:
        file.write(MIMIC3 * 500)
    raw = (tmp_path / "d.csv.gz").read_bytes()
    (tmp_path / "d.csv.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"d\.csv\.gz: the compressed file is cut in row \d\d+"):
        read_mimic3(tmp_path / "d.csv.gz", ALL)
    pyarrow.parquet.write_table(pa.table({"patient": ["a"], "code": ["b"]}), tmp_path / "d.parquet")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "d.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match="not a whole parquet file"):
        read_long(tmp_path / "d.parquet", PLAIN)


def test_empty_records_are_kept_or_dropped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", MIMIC3.replace("103,1,0389", "103,1,"))
    kept, _ = read_mimic3(path, Rules(min_records=0, empty="keep"))
    dropped, _ = read_mimic3(path, Rules(min_records=0, empty="drop"))
    assert (len(kept), len(dropped)) == (3, 2)
    assert kept.info["records without a code in the source"] == 1
    assert kept.lengths().tolist() == [2, 2, 0]
    invalid = write(tmp_path / "i.csv", MIMIC3.replace("E8499", "hello"))
    assert read_mimic3(invalid, Rules(min_records=0, invalid="drop"))[0].info["rows with what is no code"] == 1


def test_the_vocabulary_is_cut_by_frequency_and_saved(tmp_path: Path) -> None:
    cohort, _ = read_mimic3(write(tmp_path / "d.csv", MIMIC3), Rules(min_records=2))
    assert cohort.vocabulary.codes == ("ICD9CM:038",)
    assert cohort.vocabulary.counts == (2,)
    assert cohort.info["codes left out as rare"] == 3
    save_cohort(cohort.with_split(0, (0.0, 0.4)), tmp_path / "c")
    again = load_cohort(tmp_path / "c")
    assert again.vocabulary == cohort.vocabulary
    assert again.vocabulary.truncation == "icd3"
    assert again.codes.toarray().tolist() == cohort.codes.toarray().tolist()
    with pytest.raises(InputError, match="is there already"):
        save_cohort(cohort, tmp_path / "c")
    records = tmp_path / "c" / "records.safetensors"
    records.write_bytes(records.read_bytes()[:-4])
    with pytest.raises(InputError, match="is damaged"):
        load_cohort(tmp_path / "c")


def test_a_cohort_on_disk_names_no_patient(tmp_path: Path) -> None:
    text = MIMIC3.replace(",10,", ",987654321,").replace(",11,", ",887654321,")
    cohort, _ = read_mimic3(write(tmp_path / "d.csv", text), ALL)
    save_cohort(cohort.with_split(0), tmp_path / "c")
    raw = b"".join(path.read_bytes() for path in (tmp_path / "c").iterdir())
    for number in (987654321, 887654321):
        assert str(number).encode() not in raw
        assert number.to_bytes(4, "little") not in raw


def test_omop_counts_unmapped_concepts_in_any_case(tmp_path: Path) -> None:
    text = "PERSON_ID,CONDITION_CONCEPT_ID,CONDITION_START_DATE\n"
    text += "1,201826,2020-01-01\n1,0,2020-01-01\n2,201826,2020-01-01\n"
    cohort, _ = read_omop(write(tmp_path / "o.csv", text), PLAIN)
    assert cohort.vocabulary.codes == ("OMOP:201826",)
    assert cohort.info["rows with concept 0 (unmapped)"] == 1
    frame = pd.read_csv(tmp_path / "o.csv")
    frame.to_parquet(tmp_path / "o.parquet")
    assert len(read_omop(tmp_path / "o.parquet", PLAIN)[0]) == 2
    with pytest.raises(InputError, match="row 2, column condition_concept_id: a concept id is a number, got 'x1'"):
        read_omop(write(tmp_path / "b.csv", text.replace("1,201826", "1,x1", 1)), PLAIN)


def test_long_and_wide_tables(tmp_path: Path) -> None:
    long, _ = read_long(write(tmp_path / "l.csv", "patient,code\na,x\na,y\nb,x\n"), PLAIN)
    assert long.codes.toarray().tolist() == [[1, 1], [1, 0]]
    pd.DataFrame({"patient": ["a"], "code": [250]}).to_parquet(tmp_path / "n.parquet")
    with pytest.raises(InputError, match="row 1, column code: codes stored as int64 have lost their leading zeros"):
        read_long(tmp_path / "n.parquet", PLAIN)
    wide, _ = read_wide(
        write(tmp_path / "w.csv", "id,x,y,sex,drug\n1,0,1,m,up\n2,1,1,f,\n3,1,0,f,down\n"), PLAIN, "id", ["sex", "drug"]
    )
    assert wide.vocabulary.codes == ("x", "y")
    assert [column.levels for column in wide.vocabulary.columns] == [("f", "m"), ("", "down", "up")]
    assert wide.vocabulary.layout.levels == (2, 2, 2, 3)
    assert Cohort.from_tokens(wide.vocabulary, wide.tokens()).columns.tolist() == wide.columns.tolist()
    no_codes = write(tmp_path / "k.csv", "age,lab\n1,a\n2,b\n1,c\n")
    nine, _ = read_long(write(tmp_path / "i.csv", "patient,code\na,250.01\na,E849.9\nb,0389\n"), ICD3, icd="9")
    assert nine.vocabulary.codes == ("ICD9CM:038", "ICD9CM:250", "ICD9CM:E849")
    assert nine.vocabulary.truncation == "icd3"
    with pytest.raises(InputError, match="--truncate icd3 needs the version"):
        read_long(tmp_path / "i.csv", ICD3)
    with pytest.raises(InputError, match=r"row 2, column code: '250\.01' is not an ICD-10 code"):
        read_long(tmp_path / "i.csv", ICD3, icd="10")
    only, _ = read_wide(no_codes, PLAIN, None, ["age", "lab"])
    assert only.vocabulary.layout.levels == (2, 3)
    assert only.tokens().tolist() == [[0, 0], [1, 1], [0, 2]]
    for value in ("2", "-1", "", "nan"):
        with pytest.raises(InputError, match=f"row 3, column y: expected 0 or 1, got '{value}'"):
            read_wide(write(tmp_path / "b.csv", f"x,y\n0,1\n1,{value}\n"), PLAIN)
    with pytest.raises(InputError, match=r"row 3, columns x \.\.: this record has no code, and 0 more"):
        read_wide(write(tmp_path / "e.csv", "x,y\n0,1\n0,0\n"), PLAIN)


@pytest.fixture(scope="module")
def records() -> Cohort:
    return embedded_cohort(60, seed=3, codes=12)


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
@pytest.mark.parametrize("format", ["long", "wide"])
def test_records_come_back_as_they_were_written(records: Cohort, name: str, format: str, tmp_path: Path) -> None:
    pieces = records.tokens().split(25)
    assert write_records(records.vocabulary, iter(pieces), tmp_path / name, format) == 60  # type: ignore[arg-type] # a literal
    again = read_aligned(tmp_path / name, records.vocabulary)
    np.testing.assert_array_equal(again.tokens(), records.tokens())
    with pytest.raises(InputError, match="is there already"):
        write_records(records.vocabulary, pieces, tmp_path / name, format)  # type: ignore[arg-type]


def test_meds_is_valid_and_comes_back(records: Cohort, tmp_path: Path) -> None:
    import meds

    assert write_records(records.vocabulary, records.tokens().split(25), tmp_path / "m", "meds") == 60
    for shard in (tmp_path / "m" / "data").glob("*.parquet"):
        table = pyarrow.parquet.read_table(shard)
        meds.DataSchema.validate(table)
        subjects = table.column("subject_id").to_pylist()
        assert subjects == sorted(subjects)
    codes = pyarrow.parquet.read_table(tmp_path / "m" / "metadata" / "codes.parquet")
    meds.CodeMetadataSchema.validate(codes)
    meds.SubjectSplitSchema.validate(pyarrow.parquet.read_table(tmp_path / "m" / "metadata" / "subject_splits.parquet"))
    np.testing.assert_array_equal(read_aligned(tmp_path / "m", records.vocabulary).tokens(), records.tokens())
    back, _ = read_meds(tmp_path / "m", Rules("icd3", min_records=0, empty="keep"))
    assert len(back) == 60
    assert back.vocabulary.codes[0].startswith("DIAGNOSIS//ICD//9//")
    assert back.split is not None
    with pytest.raises(InputError, match="no code begins with LAB//"):
        read_meds(tmp_path / "m", PLAIN, ("LAB//",))
    with pytest.raises(InputError, match="is no MEDS data set"):
        read_meds(tmp_path, PLAIN)


def test_mimic_and_omop_files_are_written_in_their_layouts(records: Cohort, tmp_path: Path) -> None:
    write_records(records.vocabulary, records.tokens().split(25), tmp_path / "d.csv", "mimic3")
    assert detect(tmp_path / "d.csv") == "mimic3"
    back, _ = read_mimic3(tmp_path / "d.csv", Rules(min_records=0, empty="keep"))
    full = records.without_empty()
    np.testing.assert_array_equal(
        align(back, records.vocabulary.__class__(records.vocabulary.codes)).codes.toarray(), full.codes.toarray()
    )
    with pytest.raises(InputError, match="holds OMOP codes only; the vocabulary has 'ICD9CM:"):
        write_records(records.vocabulary, records.tokens().split(25), tmp_path / "o.csv", "omop")
    omop = Cohort.from_arrays(np.array([[1, 0], [1, 1]]), ["OMOP:1", "OMOP:22"])
    write_records(omop.vocabulary, omop.tokens().split(1), tmp_path / "o.csv", "omop")
    assert detect(tmp_path / "o.csv") == "omop"
    assert read_omop(tmp_path / "o.csv", PLAIN)[0].codes.toarray().tolist() == [[1, 0], [1, 1]]
    assert not list(tmp_path.glob(".*part"))


def test_a_failed_write_leaves_nothing(records: Cohort, tmp_path: Path) -> None:
    def failing():  # type: ignore[no-untyped-def] # a generator
        yield records.tokens()
        raise RuntimeError("killed")

    for name, format in (("s.csv", "long"), ("m", "meds"), ("s.parquet", "wide")):
        with pytest.raises(RuntimeError, match="killed"):
            write_records(records.vocabulary, failing(), tmp_path / name, format)  # type: ignore[arg-type] # a literal
    assert list(tmp_path.iterdir()) == []


def test_unknown_codes_are_listed_or_left_out(records: Cohort, tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "patient,code\n1,ICD9CM:401\n1,ICD9CM:999\n2,XYZ\n")
    with pytest.raises(
        InputError, match=r"s\.csv, row 3, column code: 2 codes are not in the vocabulary: ICD9CM:999, XYZ"
    ):
        read_aligned(path, records.vocabulary)
    assert len(read_aligned(path, records.vocabulary, "drop")) == 2
    meds_names = Vocabulary(("DIAGNOSIS//ICD//9//401", "DIAGNOSIS//ICD//10//I10"))
    short = read_aligned(write(tmp_path / "short.csv", "patient,code\n1,401\n2,I10\n"), meds_names)
    assert short.codes.toarray().tolist() == [[1, 0], [0, 1]]
    with pytest.raises(InputError, match="2 codes are not in the vocabulary"):
        align(Cohort.from_arrays(np.ones((1, 2)), ["a", "b"]), records.vocabulary)


def test_vocabulary_finds_codes_by_their_short_name() -> None:
    names = Vocabulary(("ICD9CM:250", "ICD10CM:E11", "ICD9CM:E11", "DIAGNOSIS//ICD//9//401"))
    assert names.find("250") == 0
    assert names.find("401") == 3
    with pytest.raises(InputError, match="is in several systems: ICD10CM:E11, ICD9CM:E11"):
        names.find("E11")
    with pytest.raises(InputError, match="nearest: 250"):
        names.find("259")
    with pytest.raises(InputError, match="is in the vocabulary twice"):
        Vocabulary(("a", "a"))


def nhds_line(codes: list[str], age: str = "167", sex: str = "1", status: str = "1") -> str:
    head = f"102{age}{sex}1101{status}0005" + "1111" + "00100" + "20"
    return (head + "".join(code.ljust(5, "-") for code in codes)).ljust(27 + 75, "-").ljust(149)


def test_nhds_layout(tmp_path: Path) -> None:
    lines = [nhds_line(["25000", "4019"]), nhds_line(["0389", "V3000"], "302", "2", "6")]
    cohort, _ = read_nhds(write(tmp_path / "NHDS.txt", "\n".join(lines) + "\n"), ALL)
    assert cohort.vocabulary.codes == ("ICD9CM:038", "ICD9CM:250", "ICD9CM:401", "ICD9CM:V30")
    assert cohort.codes.toarray().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert cohort.columns.tolist() == [[6, 0, 0], [0, 1, 1]]
    with pytest.raises(InputError, match="row 2: expected 149 characters, got 80: the file is cut"):
        read_nhds(write(tmp_path / "cut.txt", lines[0] + "\n" + lines[1][:80]), ALL)
    with pytest.raises(InputError, match="row 1, column diagnoses: 'xx---' is not an ICD-9 code"):
        read_nhds(write(tmp_path / "bad.txt", nhds_line(["xx"]) + "\n"), ALL)
    with pytest.raises(InputError, match="row 1, columns 4-7"):
        read_nhds(write(tmp_path / "age.txt", nhds_line(["25000"], "9xx") + "\n"), ALL)
    empty = write(tmp_path / "e.txt", nhds_line([]) + "\n" + lines[0] + "\n")
    with pytest.raises(InputError, match="row 1, column diagnoses: this record has no code"):
        read_nhds(empty, ALL)
    assert read_nhds(empty, Rules(min_records=0, empty="drop"))[0].columns.tolist() == [[6, 0, 0]]


@pytest.mark.slow
def test_the_embedded_figures_are_the_surveys(survey: Path) -> None:
    cohort, _ = read_nhds(survey / "NHDS10.PU.txt.bz2", Rules(min_records=0, empty="keep"))
    assert cohort.codes.shape == (151_551, 1116)
    assert cohort.codes.nnz == 1_040_261
    assert cohort.vocabulary.counts[cohort.vocabulary.codes.index("ICD9CM:401")] == 45_464
    law = embedded_law()
    place = [cohort.vocabulary.codes.index(code) for code in law.vocabulary.codes]
    real = np.asarray(cohort.codes.mean(0)).ravel()[place]
    np.testing.assert_allclose(law.weights @ law.codes, real, atol=6e-4)  # after the shrinkage and rounding


def test_the_embedded_figures_are_small_and_hold_no_record() -> None:
    from importlib.resources import files

    text = (files("d3pm_ehr") / "data" / "embedded.json").read_text()
    assert len(text) < 2**20
    law = embedded_law()
    assert law.codes.shape == (64, 256)
    assert law.weights.min() * 151_551 > 300  # every class stands for hundreds of discharges
    assert 0 < law.codes.min() < law.codes.max() < 1


def test_the_demo_file(tmp_path: Path, survey: Path) -> None:
    cohort, _ = read_mimic3(survey / "mimic3_demo" / "DIAGNOSES_ICD.csv", ALL)
    assert cohort.codes.shape == (100, 275)
    assert cohort.info["rows"] == 1761
