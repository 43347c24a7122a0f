"""Task files: jsonl, csv, parquet, and the official repository's json; errors name file and line."""

import csv
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from rar_prompt.items import Item, check_item, check_unique

log = logging.getLogger(__name__)
FIELDS = ("id", "question", "answer", "choices", "context", "task", "kind", "spec", "rephrased", "cluster")
_MODEL_SUFFIX = re.compile(r"_(gpt-[\w.-]+|vicuna[\w.-]*)$")
_PERSON = re.compile(r"Was (.+?) born in an even ")


def read_items(path: str | Path) -> list[Item]:
    """Read the questions of a file, checked.

    Raises:
        InputError: naming file and line, for anything that cannot be used.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: {'a folder; give a file' if file.is_dir() else 'there is no such file'}")
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".json": _official}
    if file.suffix not in readers:
        raise InputError(f"{file}: cannot read {file.suffix or 'a file without suffix'}; give {', '.join(readers)}")
    task = _MODEL_SUFFIX.sub("", file.stem)
    items: list[Item] = []
    unread: set[str] = set()
    for where, row in readers[file.suffix](file):
        items.append(check_item(_item(row, where, len(items), task), where))
        unread |= set(row) - {*FIELDS, "refined_question"}
        if (items[-1].answer is None) != (items[0].answer is None):
            raise InputError(f"{where}: either every question has an answer or none has one")
    if not items:
        raise InputError(f"{file}: holds no questions")
    if items[0].answer is None and unread:
        log.warning("%s: no field answer, so nothing is scored; fields not read: %s", file, ", ".join(sorted(unread)))
    check_unique(items, str(file))
    return items


def _item(row: Any, where: str, index: int, task: str) -> Item:
    if not isinstance(row, dict):
        raise InputError(f"{where}: an object with a question is wanted, got {type(row).__name__}")
    row = {key: value for key, value in row.items() if value is not None and value != ""}
    if "question" not in row:
        raise InputError(f"{where}: the field question is missing (fields: {', '.join(map(str, row)) or 'none'})")
    texts = {name: _text(row, name, where) for name in FIELDS if name != "choices"}
    if texts["rephrased"] is None:
        texts["rephrased"] = _text(row, "refined_question", where)
    if texts["cluster"] is None:  # the same people are asked about in three official tasks
        person = _PERSON.match(str(row["question"]))
        texts["cluster"] = person[1] if person else None
    texts["id"] = texts["id"] or f"{task}-{index:04d}"
    texts["task"] = texts["task"] or task
    texts["context"] = texts["context"] or ""
    return Item(choices=_choices(row.get("choices"), where), **texts)  # type: ignore[arg-type]


def _text(row: dict[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {name} must be text, got {type(value).__name__}")
    return value


def _choices(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split("|")
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: choices are neither a JSON list nor separated by |") from error
    if not isinstance(value, list) or not all(isinstance(choice, str | int | float) for choice in value):
        raise InputError(f"{where}: choices must be a list of texts")
    return tuple(str(choice).strip() for choice in value)


def _jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not JSON ({error.msg})") from error
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: not UTF-8 text") from error


def _csv(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{where}: {len(reader.fieldnames or [])} columns are wanted")
                yield where, row
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: not CSV ({error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text") from error


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is not parquet: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{file}, row {number}", row


def _official(file: Path) -> Iterator[tuple[str, Any]]:
    """A JSON list; the official data files hold `refined_question` beside question and answer."""
    from shared_core.run_folder import read_json

    rows = read_json(file)
    if not isinstance(rows, list):
        raise InputError(f"{file} must hold a list of questions, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        yield f"{file}, question {number}", row


def read_exemplars(path: str | Path) -> tuple[tuple[str, str], ...]:
    """Worked examples: a jsonl file with question and answer (the whole worked answer).

    Raises:
        InputError: naming file and line.
    """
    pairs = []
    if not Path(path).is_file():
        raise InputError(f"--exemplars {path}: there is no such file")
    for where, row in _jsonl(Path(path)):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("question", "answer")):
            raise InputError(f"{where}: an object with the texts question and answer is wanted")
        pairs.append((row["question"], row["answer"]))
    if not pairs:
        raise InputError(f"{path}: holds no exemplars")
    return tuple(pairs)
