"""The official repository's files: data, logs with human marks, and its coarse scorer."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from rar_prompt.items import Item

_MARK = re.compile(r"\((\*{0,2}\w[^)]*)\)\s*(?=\{)")
_LOG = re.compile(r"(?P<task>.+?)_(?P<stage>original|refined_combine|refined)_response\.json$")
METHODS = {"original": "plain", "refined_combine": "one-step", "refined": "two-step"}
LETTERS = ("last_letter_concatenation", "last_letter_concatenation4")
BY_WORD = ("coin_val", *LETTERS, "birthdate_day", "birthdate_month", "birthdate_year", "birthdate_earlier", "sports")


@dataclass(frozen=True)
class LogLine:
    """A reply of the transcripts.

    Args:
        item: question, gold answer and task.
        response: the model's reply.
        coarse: right by the automatic rule at the time of the experiment (the line is not in the file of wrong ones).
        marked: right by the automatic rule or by the authors' later mark `(Correct)`.
    """

    item: Item
    response: str
    coarse: bool
    marked: bool


@dataclass(frozen=True)
class Log:
    """One task, model and method of the transcripts, one line a question (appended re-runs are dropped)."""

    task: str
    model: str
    method: str
    lines: tuple[LogLine, ...]
    dropped: int


def coarse_right(task: str, answer: str, response: str, one_step: bool) -> bool:
    """The official script's rule: the gold as a piece between single spaces (other tasks: as a substring).

    `up?\\n\\nNo` is one piece, so that answers after a line break are missed; the one-step path also takes a gold that
    only opens with a quotation mark.
    """
    answer, response = answer.lower(), response.lower()
    if answer not in response:
        return False
    if task not in BY_WORD:
        return True
    pieces = {piece.strip() for piece in response.split(" ")}
    forms = [answer, f'"{answer}"', f"'{answer}'"]
    forms += [f'"{answer}', f"'{answer}"] if one_step else []
    return any(form + mark in pieces for form in forms for mark in ("", ".", ","))


def read_logs(root: str | Path) -> list[Log]:
    """Every log below `root`, in the order of their paths.

    Raises:
        InputError: if there is none, or a line cannot be read (file and line are named).
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a checkout of uclaml/Rephrase-and-Respond")
    paths = [path for path in sorted(folder.rglob("*_response.json")) if _LOG.search(path.name)]
    if not paths:
        raise InputError(f"{folder} holds no *_response.json; give a checkout of uclaml/Rephrase-and-Respond")
    return [_read_log(path) for path in paths]


def _read_log(path: Path) -> Log:
    found = _LOG.search(path.name)
    assert found is not None
    task, stage = found["task"], found["stage"]
    model = path.parent.name.removeprefix("log_").removesuffix("_1step").removesuffix("_2step")
    wrong_path = path.with_name(path.name.replace("_response.json", "_wrong.json"))
    wrong: dict[tuple[str, str], bool] = {}
    if wrong_path.exists():
        for mark, row, _ in read_marked_lines(wrong_path):
            key = row["question"], row["response"]
            # a reply listed twice counts once here; the published 82.65 of GPT-3.5, LL(2), counts it twice (83.11 here)
            wrong[key] = wrong.get(key, True) and bool(mark) and "correct" in str(mark).lower()
    by_question: dict[str, LogLine] = {}
    count = 0
    for _, row, _ in read_marked_lines(path):
        count += 1
        item = _item(row, task, len(by_question))
        key = row["question"], row["response"]
        line = LogLine(item, row["response"], key not in wrong, wrong.get(key, True))
        by_question[row["question"]] = line  # the last of appended re-runs: so the published 80.95 and 74.29 come out
    return Log(task, model, METHODS[stage], tuple(by_question.values()), count - len(by_question))


def _item(row: dict[str, Any], task: str, index: int) -> Item:
    kind = "letters" if task in LETTERS else None
    kind = "date" if task == "date" else kind
    kind = "yes-no" if kind is None and row["answer"].lower() in ("yes", "no") else kind
    person = re.match(r"Was (.+?) born", row["question"])
    return Item(
        f"{task}-{index:04d}", row["question"], row["answer"], task, kind, cluster=person[1] if person else None
    )


def read_marked_lines(path: Path) -> Iterator[tuple[str | None, dict[str, Any], int]]:
    """Yield (mark, object, line number) of a log; objects may span lines and stand behind a mark like `(Correct)`.

    Raises:
        InputError: naming file and line, where something is neither mark nor object, or lacks a field.
    """
    text = path.read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    place = 0
    while True:
        place += len(text[place:]) - len(text[place:].lstrip())
        if place >= len(text):
            return
        line = text.count("\n", 0, place) + 1
        mark = _MARK.match(text, place)
        start = mark.end() if mark else place
        try:
            row, place = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {line}: neither a mark nor a JSON object ({error.msg})") from error
        fields = ("question", "answer", "response")
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
            raise InputError(f"{path}, line {line}: an object with question, answer and response is wanted")
        yield (mark[1] if mark else None), row, line
