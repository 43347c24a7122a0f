"""A question with what is needed to ask and to score it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shared_core.errors import InputError

MAX_QUESTION = 200_000  # characters; a megabyte pasted by mistake is refused before anything is paid
# what the gold answer of a kind looks like, where not every text will do
GOLDS = {
    "yes-no": r"(?i)yes|no",
    "date": r"\d{1,2}/\d{1,2}/\d{4}",
    "number": r"-?\d[\d,]*(?:\.\d+)?",
}
KINDS = ("yes-no", "letters", "date", "choice", "number", "text")


@dataclass(frozen=True)
class Item:
    """One question of a task.

    Args:
        id: unique within the task.
        question: the text asked; never empty.
        answer: the gold answer, or None where there is none to score against.
        task: name of the task, which selects the specification line of an official template set.
        kind: how an answer is read: one of `KINDS`; None infers it from the answers of the whole task.
        choices: the options of a multiple-choice question.
        context: a passage that stands before the question and is not quoted with it.
        spec: an instruction such as `Answer the Yes or No question.`; None takes the template set's own.
        rephrased: a rephrasing that is there already.
        cluster: what the question shares with others (a person), for clustered errors; its own id by default.
        exemplars: (question, worked answer) pairs of few-shot prompting.
    """

    id: str
    question: str
    answer: str | None = None
    task: str = "questions"
    kind: str | None = None
    choices: tuple[str, ...] = ()
    context: str = ""
    spec: str | None = None
    rephrased: str | None = None
    cluster: str | None = None
    exemplars: tuple[tuple[str, str], ...] = ()


def check_item(item: Item, where: str) -> Item:
    """Return the item.

    Raises:
        InputError: naming `where` (file and line), if a field cannot be used.
    """
    if not item.question.strip():
        raise InputError(f"{where}: the question is empty")
    if len(item.question) > MAX_QUESTION:
        raise InputError(f"{where}: the question has {len(item.question)} characters; at most {MAX_QUESTION}")
    if item.answer is not None and not item.answer.strip():
        raise InputError(f"{where}: the answer is empty; leave the field out where there is none")
    if item.kind is not None and item.kind not in KINDS:
        raise InputError(f"{where}: there is no kind {item.kind!r}; kinds: {', '.join(KINDS)}")
    if len(item.choices) == 1 or len(item.choices) > 26:
        raise InputError(f"{where}: 2 to 26 choices are wanted, got {len(item.choices)}")
    if len({choice.casefold() for choice in item.choices}) < len(item.choices):
        raise InputError(f"{where}: two choices are the same")
    if item.kind == "choice" and not item.choices:
        raise InputError(f"{where}: kind choice without choices")
    if item.kind in GOLDS and item.answer is not None and not re.fullmatch(GOLDS[item.kind], item.answer.strip()):
        raise InputError(f"{where}: the answer {item.answer!r} is none of the kind {item.kind}")
    if item.choices and item.answer is not None and gold_choice(item) is None:
        raise InputError(f"{where}: the answer {item.answer!r} is none of the choices")
    return item


def gold_choice(item: Item) -> int | None:
    """Index of the gold answer among the choices, by its text or its letter."""
    gold = (item.answer or "").strip().casefold()
    for index, choice in enumerate(item.choices):
        if gold == choice.strip().casefold():
            return index
    letter = gold.strip("().")
    if len(letter) == 1 and "a" <= letter <= chr(96 + len(item.choices)):
        return ord(letter) - 97
    return None


def check_unique(items: Iterable[Item], where: str) -> None:
    """Raise InputError naming the first id that occurs twice within a task."""
    seen: set[tuple[str, str]] = set()
    for item in items:
        if (item.task, item.id) in seen:
            raise InputError(f"{where}: the id {item.id!r} occurs twice")
        seen.add((item.task, item.id))
