"""Every layout that people have is read, and what is wrong with a record is said in one line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_core.errors import InputError
from spin_llm.docstrings import docstring_examples, module_of
from spin_llm.records import Example, example_of, read_examples, split_examples, to_row

ASK = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("row", "prompt", "response", "generated"),
    [
        ({"prompt": "q", "response": "a"}, [ASK], "a", None),
        ({"prompt": "q", "completion": "a"}, [ASK], "a", None),
        ({"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, [SYSTEM, ASK], "a", None),
        ({"messages": [SYSTEM, ASK, ANSWER]}, [SYSTEM, ASK], "a", None),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [ASK], "a", None),
        ({"instruction": "q", "input": "", "output": "a"}, [ASK], "a", None),
        ({"instruction": "q", "input": "more", "output": "a"}, [{"role": "user", "content": "q\n\nmore"}], "a", None),
        ({"real": [ASK, ANSWER], "generated": [ASK, {"role": "assistant", "content": "b"}]}, [ASK], "a", "b"),
    ],
)
def test_layouts(row: dict[str, Any], prompt: list[Any], response: str, generated: str | None) -> None:
    assert example_of(row) == Example("record", tuple(prompt), response, generated)
    assert example_of(to_row(example_of(row))) == example_of(row)


def test_the_first_or_the_last_turn_is_the_response() -> None:
    talk = {"messages": [ASK, ANSWER, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]}
    assert example_of(talk).response == "a"
    last = example_of(talk, turns="last")
    assert (last.response, len(last.prompt)) == ("b", 3)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], "expected an object"),
        ({"text": "x"}, "of no known layout"),
        ({"prompt": "q"}, "none of response, completion, chosen"),
        ({"prompt": "q", "response": 3}, "field response: expected text, got int"),
        ({"prompt": "q", "response": " "}, "field response: is empty"),
        ({"messages": []}, "field messages: expected a list"),
        ({"messages": [ASK]}, "no message has the role assistant"),
        ({"messages": [ANSWER, ASK]}, "message 1: role assistant after nothing"),
        ({"messages": [ASK, ASK, ANSWER]}, "message 2: role user after user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role must be one of"),
        ({"messages": [ASK, {"role": "assistant", "content": ""}]}, "message 2: content is empty"),
        ({"real": [ASK, ANSWER], "generated": [{"role": "user", "content": "z"}, ANSWER]}, "different prompts"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, row: Any, words: str) -> None:
    path = tmp_path / "é.jsonl"
    path.write_text(json.dumps({"prompt": "q", "response": "a"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        read_examples(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}, record 2")
    reading = read_examples(path, skip_bad=True)
    assert (len(reading.examples), len(reading.skipped)) == (1, 1)


def test_a_line_that_is_no_json_is_skipped_like_any_other_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": "q", "response": "a"}).encode()
    path.write_bytes(b"\n".join([good, b'{"prompt": "q', b"\xff\xfe", b"[" * 100_000, good]))
    with pytest.raises(InputError, match=r"record 2: not JSON \(Invalid control character at column 14\)"):
        read_examples(path)
    reading = read_examples(path, skip_bad=True)
    assert ([example.id for example in reading.examples], len(reading.skipped)) == (["1", "5"], 3)


def test_files_of_every_kind(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "response": "a"} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table = pa.Table.from_pylist(rows)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "saved").mkdir()
    with pa.ipc.new_stream(tmp_path / "saved" / "data-00000-of-00001.arrow", table.schema) as sink:
        sink.write_table(table)
    for name in ("a.jsonl", "a.json", "a.parquet", "saved"):
        assert [item.prompt[0]["content"] for item in read_examples(tmp_path / name).examples] == ["q0", "q1", "q2"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"x", "expected .jsonl, .json, .parquet"),
        ("a.jsonl", b"", "holds no usable record"),
        ("a.jsonl", b"{", "record 1: not JSON"),
        ("a.jsonl", b"\xff\n", "record 1: not JSON"),
        ("a.json", b"{}", "must hold a list"),
        ("a.parquet", b"PAR1", "is not a parquet file"),
        (
            "a.jsonl",
            b'{"id":1,"prompt":"q","response":"a"}\n{"id":1,"prompt":"q","response":"a"}',
            "stands there twice",
        ),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_examples(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_folder_without_arrow_files_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*\.arrow file"):
        read_examples(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_examples(tmp_path / "none.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "response", "messages", "role", "content", "real", "id"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_an_example_or_one_line(value: Any) -> None:
    try:
        example = example_of(value)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most values are refused, and some are not
    else:
        assert example.response.strip()


def test_held_out_groups_are_not_split() -> None:
    examples = [Example(str(i), (), "a") for i in range(6)]
    test, rest = split_examples(examples, 2, ["x", "y", "x", "x", "z", "y"])
    assert [item.id for item in test] == ["0", "2", "3"]
    assert [item.id for item in rest] == ["1", "4", "5"]


def test_docstrings_are_a_few_thousand_sentences() -> None:
    examples = docstring_examples()
    assert 1500 < len(examples) < 6000
    assert len({item.response for item in examples}) == len({item.id for item in examples}) == len(examples)
    assert all(20 <= len(item.response) <= 110 and item.response.endswith(".") for item in examples)
    assert examples == docstring_examples()
    assert module_of(Example("json.dumps", (), "a")) == "json"
