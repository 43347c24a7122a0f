"""What can go wrong with a rephrasing: it echoes the instruction, leaks the answer, loses names, numbers, quotes."""

import re

from rar_prompt.items import Item

_ECHO = re.compile(
    r"\b(?:please )?(?:rephrase and expand|rephrased? (?:the|and)|maintain(?:ing)? all (?:the )?information)\b"
    r"|help (?:you|me) do better answering",
    re.IGNORECASE,
)


def drift(item: Item, rephrased: str) -> dict[str, bool]:
    """Flags of one rephrasing.

    Returns:
        `echo` (speaks of rephrasing itself), `leak` (holds the gold answer, which the question does not, as a whole
        word of more than one character), `lost` (a name, number or quoted word of the question is missing), `same`.
    """
    question, text = item.question.casefold(), rephrased.casefold()
    gold = (item.answer or "").strip().casefold()
    leak = len(gold) > 1 and gold not in ("yes", "no") and _word(gold, text) and not _word(gold, question)
    return {
        "echo": _ECHO.search(rephrased) is not None and _ECHO.search(item.question) is None,
        "leak": leak,
        "lost": any(not _word(part, text) for part in essentials(item.question)),
        "same": " ".join(question.split()) == " ".join(text.split()),
    }


def essentials(question: str) -> set[str]:
    """Names, numbers and quoted words of a question, lower case."""
    quoted = {word for span in re.findall(r'"([^"]*)"', question) for word in span.split()}
    # a capital that opens a sentence names nothing
    names = set(re.findall(r"(?<![.?!]\s)(?<!^)\b[A-Z][\w.'-]*\w", question))
    acting = set(re.findall(r"\b(\w+) (?:does not flip|flips) the coin", question))
    return {part.casefold() for part in quoted | names | acting | set(re.findall(r"\d+", question))}


def _word(part: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None
