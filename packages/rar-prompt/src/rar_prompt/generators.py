"""Seeded question generators: the paper's procedural tasks with exact golds."""

import datetime
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from shared_core.errors import InputError

from rar_prompt.items import Item

MONTHS: tuple[str, ...] = ("January", "February", "March", "April", "May", "June", "July", "August", "September")
MONTHS += ("October", "November", "December")
USUAL = 100
MISSES = 5000  # draws in a row that bring nothing new: the last of 91 people is missed so often once in 10^24


@dataclass(frozen=True)
class GenOptions:
    """What a generator may vary.

    Args:
        words: words of a last-letter question.
        people: people of a coin question.
        ambiguous: leave out `Flip means reverse.`
        given: state the birth date in the question, so that only its reading is asked for.
    """

    words: int = 2
    people: int = 2
    ambiguous: bool = False
    given: bool = False


def generate(task: str, n: int | None = None, seed: int = 0, options: GenOptions = GenOptions()) -> list[Item]:
    """`n` different questions of a task, the same for the same seed; None is 100, or as many as there are.

    Raises:
        InputError: for an unknown task, or more questions than there are different ones.
    """
    if task not in GENERATORS:
        raise InputError(f"there is no generator {task!r}; generators: {', '.join(GENERATORS)}")
    if n is not None and n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    if not 1 <= options.words <= 20 or not 1 <= options.people <= 20:
        raise InputError(f"words and people must be in 1..20, got {options.words} and {options.people}")
    # a string seeds by its hash, which is the same on every platform; the task keeps two tasks apart
    draw = random.Random(f"{task}/{seed}")
    make = GENERATORS[task]
    items: dict[str, Item] = {}
    misses = 0
    while len(items) < (USUAL if n is None else n):
        item = make(draw, options, len(items))
        misses = misses + 1 if item.question in items else 0
        if misses > MISSES and n is None:
            break
        if misses > MISSES:
            raise InputError(f"{task} has fewer than {n} different questions ({len(items)} found); ask for fewer")
        items.setdefault(item.question, item)
    return list(items.values())


def last_letters(draw: random.Random, options: GenOptions, index: int) -> Item:
    """Concatenate the last letters of `words` names."""
    words = draw.sample(_names(), options.words)
    gold = "".join(word[-1] for word in words)
    question = f'Take the last letters of the words in "{" ".join(words)}" and concatenate them.'
    return Item(f"last-letters-{index:04d}", question, gold, "last-letters", "letters")


def coin_flip(draw: random.Random, options: GenOptions, index: int) -> Item:
    """Is the coin still heads up? Golds alternate, so that yes and no are balanced."""
    names = draw.sample(_names(), options.people)
    flips = [draw.random() < 0.5 for _ in names]
    # half of the questions of each answer: the last person decides the parity
    flips[-1] = (sum(flips[:-1]) + index) % 2 == 1
    acts = [
        f"{name.lower()} {'flips' if flip else 'does not flip'} the coin."
        for name, flip in zip(names, flips, strict=True)
    ]
    # two spaces before "Is", as in the public file
    question = f"A coin is heads up. {' '.join(acts)}  Is the coin still heads up?"
    question += "" if options.ambiguous else " Flip means reverse."
    gold = "no" if sum(flips) % 2 else "yes"
    return Item(f"coin-flip-{index:04d}", question, gold, "coin-flip", "yes-no")


def _even(part: str) -> Callable[[random.Random, GenOptions, int], Item]:
    def make(draw: random.Random, options: GenOptions, index: int) -> Item:
        name = draw.choice(list(_people()))
        date = _people()[name]
        gold = "Yes" if getattr(date, part) % 2 == 0 else "No"
        stated = f"{name} was born on {_long(date)}. " if options.given else ""
        question = f"{stated}Was {name} born in an even {part}?"
        return Item(f"even-{part}-{index:04d}", question, gold, f"even-{part}", "yes-no", cluster=name)

    make.__doc__ = f"Was a person born in an even {part}? Clustered by person."
    return make


def compare_ages(draw: random.Random, options: GenOptions, index: int) -> Item:
    """Was A born earlier than B?"""
    while True:
        first, second = draw.sample(list(_people()), 2)
        if _people()[first] != _people()[second]:
            break
    born = [_people()[first], _people()[second]]
    gold = "Yes" if born[0] < born[1] else "No"
    stated = f"{first} was born on {_long(born[0])}. {second} was born on {_long(born[1])}. " if options.given else ""
    question = f"{stated}Was {first} born earlier than {second}?"
    return Item(f"compare-ages-{index:04d}", question, gold, "compare-ages", "yes-no", cluster=first)


def date_arithmetic(draw: random.Random, options: GenOptions, index: int) -> Item:
    """A date some days, weeks or months away, as MM/DD/YYYY."""
    today = datetime.date(2000, 1, 1) + datetime.timedelta(days=draw.randrange(9000))
    number = draw.randrange(2, 40)
    unit, step = draw.choice([("days", 1), ("weeks", 7)])
    past = draw.random() < 0.5
    there = today + datetime.timedelta(days=step * number * (-1 if past else 1))
    when = f"{number} {unit} ago" if past else f"{number} {unit} from now"
    question = f"Today is {_long(today)}. What is the date {when} in MM/DD/YYYY?"
    return Item(f"date-arithmetic-{index:04d}", question, there.strftime("%m/%d/%Y"), "date-arithmetic", "date")


GENERATORS: dict[str, Callable[[random.Random, GenOptions, int], Item]] = {
    "last-letters": last_letters,
    "coin-flip": coin_flip,
    "even-day": _even("day"),
    "even-month": _even("month"),
    "even-year": _even("year"),
    "compare-ages": compare_ages,
    "date-arithmetic": date_arithmetic,
}


def _long(date: datetime.date) -> str:
    return f"{MONTHS[date.month - 1]} {date.day}, {date.year}"


def _names() -> list[str]:
    return json.loads(_data("names.json"))


def _people() -> dict[str, datetime.date]:
    return {name: datetime.date.fromisoformat(born) for name, born in json.loads(_data("people.json")).items()}


def _data(name: str) -> str:
    if name not in _READ:
        _READ[name] = resources.files("rar_prompt").joinpath("data", name).read_text(encoding="utf-8")
    return _READ[name]


_READ: dict[str, str] = {}
