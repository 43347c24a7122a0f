"""Supervised data as people have it: chat messages, prompt and response, Alpaca, the official real/generated pairs.

Read from jsonl, json, parquet, or a folder that `datasets` saved; every error names the file, the record and the field.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from spin_llm.choices import Turns

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Example:
    """A prompt, as chat messages that end with the user's, and the response that a human or a better model gave.

    Args:
        id: names the example in files and errors.
        prompt: messages with `role` and `content`.
        response: text of the assistant's turn.
        generated: another model's response to the same prompt, where the data came with one.
    """

    id: str
    prompt: tuple[Message, ...]
    response: str
    generated: str | None = None


@dataclass
class Reading:
    """Examples, and the records that could not be used where bad ones were to be skipped."""

    examples: list[Example] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_examples(path: str | Path, turns: Turns = "first", skip_bad: bool = False) -> Reading:
    """Read supervised data, whatever of the known layouts it has.

    Args:
        path: .jsonl, .json, .parquet, or a folder of arrow files.
        turns: which assistant turn of a conversation is the response; all turns before it are the prompt.
        skip_bad: leave unusable records out and count them.

    Raises:
        InputError: for the first unusable record (file, record, field), or where no usable one is left.
    """
    path = Path(path)
    reading, ids = Reading(), set()
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}, record {number}"
        try:
            if isinstance(row, InputError):
                raise row
            example = example_of(row, where, turns)
            if example.id in ids:
                raise InputError(f"{where}: id {example.id!r} stands there twice")
        except InputError as error:
            if not skip_bad:
                raise
            reading.skipped.append(str(error))
            continue
        ids.add(example.id)
        reading.examples.append(example)
    if not reading.examples:
        last = f"; the last of {len(reading.skipped)}: {reading.skipped[-1]}" if reading.skipped else ""
        raise InputError(f"{path} holds no usable record{last}")
    return reading


def example_of(row: Any, where: str = "record", turns: Turns = "first") -> Example:
    """One record in any known layout as an `Example`.

    Raises:
        InputError: naming the record and the field.
    """
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}")
    id = str(row["id"]) if row.get("id") is not None else where.rpartition("record ")[2]
    if "real" in row:
        prompt, response = _split(row["real"], f"{where}, field real", turns)
        generated = None
        if row.get("generated") is not None:
            asked, generated = _split(row["generated"], f"{where}, field generated", turns)
            if asked != prompt:
                raise InputError(f"{where}: real and generated answer different prompts")
        return Example(id, prompt, response, generated)
    if "messages" in row or "conversations" in row:
        name = "messages" if "messages" in row else "conversations"
        return Example(id, *_split(row[name], f"{where}, field {name}", turns))
    if "instruction" in row:
        more = str(row.get("input") or "")
        text = _text(row, "instruction", where) + (f"\n\n{more}" if more.strip() else "")
        return Example(id, _ask(text), _text(row, "output", where))
    if "prompt" in row:
        names = [name for name in ("response", "completion", "chosen") if name in row]
        if not names:
            raise InputError(f"{where}: has a prompt and none of response, completion, chosen")
        if isinstance(row["prompt"], list):
            answer = row[names[0]]
            turn = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
            return Example(id, *_split([*row["prompt"], *turn], f"{where}, field prompt", "last"))
        return Example(id, _ask(_text(row, "prompt", where)), _text(row, names[0], where))
    raise InputError(
        f"{where}: fields {sorted(row)} are of no known layout (messages; prompt and response; "
        "instruction and output; real and generated)"
    )


def to_row(example: Example) -> dict[str, Any]:
    """The normalised record that `prepare` writes, one of the layouts that `example_of` reads."""
    answer = {"role": "assistant", "content": example.response}
    row: dict[str, Any] = {"id": example.id, "messages": [*example.prompt, answer]}
    if example.generated is not None:
        generated = {"role": "assistant", "content": example.generated}
        row = {"id": example.id, "real": row["messages"], "generated": [*example.prompt, generated]}
    return row


def split_examples(
    examples: Sequence[Example], held_out: int, group: Iterable[str] | None = None
) -> tuple[list[Example], list[Example]]:
    """The first so many examples, and the rest, with no group (by default every example is its own) in both."""
    groups = list(group) if group is not None else [example.id for example in examples]
    chosen: set[str] = set()
    count = 0
    for name in dict.fromkeys(groups):
        if count >= held_out:
            break
        chosen.add(name)
        count += groups.count(name)
    pairs = list(zip(examples, groups, strict=True))
    return [item for item, name in pairs if name in chosen], [item for item, name in pairs if name not in chosen]


def _ask(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(f"{where}, field {name}: expected text, got {type(value).__name__}")
    if not value.strip():
        raise InputError(f"{where}, field {name}: is empty")
    return value


def _split(messages: Any, where: str, turns: Turns) -> tuple[tuple[Message, ...], str]:
    """Cut a conversation before the wanted assistant turn."""
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: expected a list of messages, got {type(messages).__name__}")
    turns_ = [_message(item, f"{where}, message {index}") for index, item in enumerate(messages, start=1)]
    for index, (before, after) in enumerate(zip([{"role": ""}, *turns_], turns_, strict=False), start=1):
        expected = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
        if after["role"] not in expected[before["role"]]:
            raise InputError(
                f"{where}, message {index}: role {after['role']} after {before['role'] or 'nothing'}; expected "
                f"{' or '.join(expected[before['role']])}"
            )
    answers = [index for index, message in enumerate(turns_) if message["role"] == "assistant"]
    if not answers:
        raise InputError(f"{where}: no message has the role assistant")
    cut = answers[0 if turns == "first" else -1]
    return tuple(turns_[:cut]), turns_[cut]["content"]


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected role and content, got {type(item).__name__}")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    role = {"human": "user", "gpt": "assistant"}.get(str(role), str(role))
    if role not in ROLES:
        raise InputError(f"{where}: role must be one of {', '.join(ROLES)}, got {role!r}")
    if not isinstance(content, str) or (not content.strip() and role != "system"):
        raise InputError(f"{where}: content is empty or no text")
    return {"role": role, "content": content}


def _rows(path: Path) -> Iterator[Any]:
    """Records; in place of one that cannot be read, what is wrong with it."""
    if path.is_dir():
        yield from _arrow_folder(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix == ".json":
        from shared_core.run_folder import read_json

        rows = read_json(path)
        if not isinstance(rows, list):
            raise InputError(f"{path} must hold a list of records, got {type(rows).__name__}")
        yield from rows
    elif path.suffix == ".jsonl":
        yield from _jsonl(path)
    else:
        raise InputError(f"{path}: expected .jsonl, .json, .parquet or a folder that datasets saved")


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate((line for line in file if line.strip()), start=1):
            try:
                yield json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                # not raised, since the records after it can be read
                yield InputError(f"{path}, record {number}: not JSON ({_problem(error)})")


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        if not path.exists():
            raise
        raise InputError(f"{path} is not a parquet file, or not a whole one: {str(error).splitlines()[0]}") from error


def _arrow_folder(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.ipc  # type: ignore[import-untyped]

    files = sorted(path.glob("*.arrow"))
    if not files:
        raise InputError(f"{path} holds no *.arrow file: give a folder that datasets' save_to_disk wrote")
    for file in files:
        try:
            with pyarrow.memory_map(str(file)) as source:
                for batch in pyarrow.ipc.open_stream(source):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is not an arrow stream: {str(error).splitlines()[0]}") from error


def _problem(error: Exception) -> str:
    """Without the decoder's own count of lines: it sees one record at a time."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return str(error)
