"""Reading the final answer out of a reply: the rephrased question in it is never the answer.

A first-hit or substring rule reads `yes` in the restated question, and that decides the paper's numbers; so every
extractor here drops questions, prefers an explicit final answer, then the last conclusion, and says `unparsed` (None)
rather than guess. `EXTRACTORS` names them by the kind of an item.
"""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass

from rar_prompt.chat import without_thinking
from rar_prompt.items import GOLDS, Item, gold_choice
from rar_prompt.yes_no import read_yes_no

MONTHS: tuple[str, ...] = ("january", "february", "march", "april", "may", "june", "july", "august", "september")
MONTHS += ("october", "november", "december")


@dataclass(frozen=True)
class Extraction:
    """What was read.

    Args:
        value: the final answer in normal form, None where the reply holds no clear one.
        rule: the rule that found it, for the record.
    """

    value: str | None
    rule: str


def visible(text: str) -> str:
    """The reply without reasoning and markdown emphasis."""
    return (
        re.sub(r"(\*\*|__|`)", "", without_thinking(text)).replace("“", '"').replace("”", '"').replace("’", "'").strip()
    )


def marked_answer(text: str) -> str | None:
    """What follows the last explicit mark: `Answer:`, `the answer is`, `\\boxed{}`, `####`."""
    marks = r"(?:final answer|answer)\s*(?:is|would be|will be|=)?\s*:?\s+|####\s*|\\boxed\{"
    ends = [found.end() for found in re.finditer(marks, text, re.IGNORECASE)]
    for end in reversed(ends):
        if not text[max(0, end - 40) : end].rstrip().lower().endswith((":", "is", "be", "=", "#", "{")):
            continue
        rest = text[end:].split("\n", 1)[0]
        if text.startswith("\\boxed{", end - 7):
            rest = rest.removeprefix("\\text{").split("}")[0]
        rest = rest.strip().strip("}$ ")
        if rest:
            return rest
    return None


def statements(text: str) -> str:
    """The reply without its questions: quoted spans and sentences that end in a question mark."""
    # `"...Shannon Alejandro"?..." ` nests quotes, so sentences are cut by their question mark alone
    kept = []
    for line in text.splitlines():
        if re.match(
            r"\s*\W*(rephrased|revised|reworded|expanded|original|restated)?\s*(question|inquiry)\b.*[:?]",
            line,
            re.IGNORECASE,
        ):
            line = line.rsplit("?", 1)[1] if "?" in line else ""
        parts = re.split(r"(?<=[.!?])[\"')]*\s+|(?<=\?)[\"')]+\s*", line)
        kept.append(" ".join(part for part in parts if part and not part.rstrip("\"') ").endswith("?")))
    return "\n".join(part for part in kept if part.strip())


def extract_yes_no(text: str, item: Item) -> Extraction:
    """`yes` or `no` (see `yes_no`)."""
    text = visible(text)
    value, rule = read_yes_no(statements(text), marked_answer(text), item.task, item.question)
    return Extraction(value, rule)


# single letters with separators, or one word
_STRING = r"[^\W\d_](?:[ \-,+]+[^\W\d_])*(?!\w)|[^\W\d_]+"


def extract_letters(text: str, item: Item) -> Extraction:
    """A short string: the last one quoted or announced, lower case, separators between single letters removed.

    `n k`, `n-k` and `"N", "K"` read as `nk`; accents are kept (`léon` is not `leon`); a longer string stays longer.
    """
    text = visible(text)
    whole = _joined(text)
    if whole and " " not in whole and "\n" not in whole:
        return Extraction(whole, "whole reply")
    body = statements(text) or text
    marked = marked_answer(body)
    # "Answer: Sure, the last letters are ..." has its answer later
    plain = (
        re.match(rf"({_STRING})(?:[.;!]|$|,\s+(?:which|formed|made|because|since|as)\b)", marked) if marked else None
    )
    if plain:
        return Extraction(_joined(plain[1]), "answer mark")
    # after a mark there may be a whole explanation: then its end counts, as everywhere
    for source, rule in ((marked, "answer mark"), (body, "last quoted")):
        found = _last_string(source, item.question) if source else None
        if found:
            return Extraction(found, rule)
    announced = rf"(?:\b(?:is|be|get|gives?|forms?|becomes?|in|as)\b|[=:])\s*:?\s*({_STRING})\W*$"
    for line in reversed(body.splitlines()):
        hit = re.search(announced, line, re.IGNORECASE)
        if hit:
            return Extraction(_joined(hit[1]), "announced")
    last = (body.splitlines() or [""])[-1].strip()
    separated = re.fullmatch(rf"\W*({_STRING})\W*", last)
    return Extraction(_joined(separated[1]), "last line") if separated else Extraction(None, "unparsed")


def _last_string(text: str, question: str) -> str | None:
    words = {word.strip("\"'.,?") for word in question.casefold().split()}
    # an apostrophe inside a word opens nothing
    quoted = re.findall(r"(?<!\w)[\"']([^\"'\n]{1,60}?)[.,]?[\"'](?!\w)", text)
    # `"o" from "Pablo"`: a word of the question is where a letter came from
    quoted = [piece for piece in quoted if piece.strip().casefold() not in words]
    if not quoted:
        return _joined(text) if len(text.split()) <= 2 else None
    last = quoted[-1].strip()
    if len(last) == 1:  # "n" and "k": a list of letters at the end is the string
        run = []
        for piece in reversed(quoted):
            if len(piece.strip()) != 1:
                break
            run.append(piece.strip())
        named = re.search(r"concatenat|together|combin|join|get", text.rsplit(quoted[-1], 1)[0], re.IGNORECASE)
        longer = [piece for piece in quoted[: -len(run)] if " " not in piece.strip()]
        if named and longer and re.search(r"\bget|\bis\b|forms?", text) and longer[-1].islower():
            return _joined(longer[-1])  # `you get "ol", made of "o" and "l"`
        return _joined("".join(reversed(run)))
    return _joined(last) or None


def _joined(text: str) -> str:
    text = text.strip().strip("\"'.,:;!()[] ").casefold()
    parts = re.split(r"(?:[\s\-,+./]|\band\b)+", text)
    return "".join(parts) if all(len(part) <= 1 for part in parts) else text


def extract_date(text: str, item: Item) -> Extraction:
    """The last date of the reply as MM/DD/YYYY; a written date (`May 1, 2021`) counts."""
    text = visible(text)
    for source, rule in ((marked_answer(text), "answer mark"), (statements(text), "last date")):
        dates = _dates(source or "")
        if dates:
            return Extraction(dates[-1], rule)
    return Extraction(None, "unparsed")


_MONTH, _DAY = "|".join(MONTHS), r"\d{1,2})(?:st|nd|rd|th)?"
_DATE = re.compile(
    r"(?P<ma>\d{1,2})/(?P<da>\d{1,2})/(?P<ya>\d{4})"  # 05/01/2021
    rf"|(?P<mb>{_MONTH})\s+(?P<db>{_DAY},?\s+(?P<yb>\d{{4}})"  # May 1, 2021
    rf"|\b(?P<dc>{_DAY}\s+(?:of\s+)?(?P<mc>{_MONTH}),?\s+(?P<yc>\d{{4}})"  # 1 May 2021
    r"|\b(?P<yd>\d{4})-(?P<md>\d{2})-(?P<dd>\d{2})\b",  # 2021-05-01
    re.IGNORECASE,
)


def _dates(text: str) -> list[str]:
    found = []
    for hit in _DATE.finditer(text):
        month, day, year = (next(hit[f"{part}{form}"] for form in "abcd" if hit[f"{part}{form}"]) for part in "mdy")
        number = MONTHS.index(month.lower()) + 1 if month.lower() in MONTHS else int(month)
        try:
            found.append(datetime.date(int(year), number, int(day)).strftime("%m/%d/%Y"))
        except ValueError:
            continue
    return found


def extract_choice(text: str, item: Item) -> Extraction:
    """The one choice that the reply settles on, by letter or by text, as its letter; two choices are none."""
    text = visible(text)
    bare = re.fullmatch(r"\W*([A-Z])\W*", text)
    if bare:
        return _letter(bare[1], item, "whole reply")
    marked = marked_answer(text)
    body = statements(text) or text
    last = body.splitlines()[-1] if body else ""
    for source, rule in ((marked, "answer mark"), (body, "only choice named"), (last, "last sentence")):
        if not source:
            continue
        letters = re.findall(r"(?<![\w'])\(?([A-Z])(?:[.):](?=\s|$)|(?=[\s,;.]*$)|(?=\s+or\s+\(?[A-Z]\b))", source)
        first = re.match(r"\W*([A-Z])\)?(?=\s+(?:because|since|as)\b|[,;])", source) if source == marked else None
        letters = [first[1]] if first else letters
        named = {letter for letter in letters if ord(letter) - 65 < len(item.choices)}
        if not named:
            named = {chr(65 + index) for index in _named_choices(source, item)}
        if len(named) == 1:
            return Extraction(named.pop(), rule)
    return Extraction(None, "unparsed")


def _letter(letter: str, item: Item, rule: str) -> Extraction:
    inside = ord(letter) - 65 < len(item.choices)
    return Extraction(letter, rule) if inside else Extraction(None, "unparsed")


def _named_choices(text: str, item: Item) -> list[int]:
    text = normal_text(text)
    hits = {}
    for index, choice in enumerate(item.choices):
        found = re.search(rf"(?<!\w){re.escape(normal_text(choice))}(?!\w)", text)
        if found:
            hits[index] = found.group()
    # a choice inside a longer one that is named is not a second choice
    return [i for i, a in hits.items() if not any(a != b and a in b for b in hits.values())]


def extract_number(text: str, item: Item) -> Extraction:
    """The last number after an answer mark, else the last number of the reply, without thousands separators."""
    text = visible(text)
    for source, rule in ((marked_answer(text), "answer mark"), (statements(text) or text, "last number")):
        found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", source or "")
        if found:
            return Extraction(_number(found[-1]), rule)
    return Extraction(None, "unparsed")


def _number(text: str) -> str:
    """Without separators and idle zeros; as text, for a reply may hold a thousand digits."""
    digits = text.replace(",", "").removeprefix("-")
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if text.startswith("-") and value != "0" else value


def extract_text(text: str, item: Item) -> Extraction:
    """The marked answer, else the last line, without case, articles and outer punctuation."""
    text = visible(text)
    marked = marked_answer(text)
    body = (statements(text) or text).splitlines()
    if marked:
        return Extraction(normal_text(marked), "answer mark")
    return Extraction(normal_text(body[-1]), "last line") if body else Extraction(None, "unparsed")


def normal_text(text: str) -> str:
    """Case, articles, outer punctuation and runs of white space removed."""
    text = re.sub(r"\b(a|an|the)\b", " ", text.casefold())
    return " ".join(text.split()).strip(" .,:;!?\"'()")


EXTRACTORS: dict[str, Callable[[str, Item], Extraction]] = {
    "yes-no": extract_yes_no,
    "letters": extract_letters,
    "date": extract_date,
    "choice": extract_choice,
    "number": extract_number,
    "text": extract_text,
}


def normal_gold(item: Item, kind: str) -> str:
    """The gold answer in the form in which `EXTRACTORS[kind]` reads answers."""
    gold = (item.answer or "").strip()
    if kind == "choice":
        index = gold_choice(item)
        return chr(65 + index) if index is not None else gold
    if kind == "date":
        return (_dates(gold) or [gold])[-1]
    if kind == "number":
        return _number(gold)
    if kind == "text":
        return normal_text(gold)
    return gold.casefold()


def infer_kind(items: list[Item]) -> str:
    """How the answers of a task are read, from what its golds look like."""
    golds = [item.answer.strip() for item in items if item.answer is not None]
    if all(item.choices for item in items):
        return "choice"
    fitting = (kind for kind, form in GOLDS.items() if golds and all(re.fullmatch(form, gold) for gold in golds))
    return next(fitting, "text")
