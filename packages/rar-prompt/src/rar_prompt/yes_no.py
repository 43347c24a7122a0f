"""Yes or no: the conclusion of a reply, by explicit mark, by a leading word, or by what the task's words say."""

import re

# what a statement without yes or no says, by task: words that affirm the question and words that deny it
_EVEN = (
    r"\beven\b|\bnot (?:an )?odd\b",
    r"(?<!not )(?<!not an )\bodd\b|\bnot\b[^.;]{0,40}\beven\b|n't\b[^.;]{0,40}\beven\b",
)
_HEADS = (
    r"\b(?:still|remains?|is|be|stays?|back to)\b[^.;]{0,30}\bheads\b",
    r"\btails\b|\b(?:not|no longer|n't)\b[^.;]{0,30}\bheads\b",
)
_PLAUSIBLE = (
    r"\b(?:plausible|possible|sensible|makes sense|could)\b",
    r"\b(?:not|n't|im|in)\s*-?(?:\w+ ){0,3}(?:plausible|possible|make sense)\b|\bimplausible\b|\bunlikely\b",
)
_SAYS = {
    "even": _EVEN, "birthdate_day": _EVEN, "birthdate_month": _EVEN, "birthdate_year": _EVEN,
    "coin": _HEADS, "sports": _PLAUSIBLE,
}  # fmt: skip
_COMPARES = ("birthdate_earlier", "compare-ages")
_OPEN = re.compile(
    r"\b(?:cannot|can't|can not|could not|impossible to|not possible to|unable to)\b[^.]{0,40}"
    r"\b(?:determine|say|tell|know|answer|provide|predict)|\bnot predetermined\b|\bcannot be determined\b",
    re.IGNORECASE,
)
_CONCLUDES = r"(?:so|therefore|thus|hence|consequently|then|accordingly|as a result|in conclusion|overall|finally)"
_LEADING = re.compile(
    rf"(?:^|[.!:;\n]\s*|\b(?:{_CONCLUDES}|actually|to answer),?\s+(?:the answer is\s+|it is\s+)?"
    r"|\b(?:answer|response)(?: to [^.]*?)?(?: is,?|:)\s*)"
    r"[\"'(]*(yes|no)\b(?=[\"')]*(?:[.,;!:\s]|$))"
    r"(?!\s+(?:one|longer|matter|doubt|more|other|such|information|\w+ (?:of|in)\b))",
    re.IGNORECASE,
)


def read_yes_no(body: str, marked: str | None, task: str, question: str = "") -> tuple[str | None, str]:
    """The final yes or no of a reply.

    Args:
        body: the reply without its questions.
        marked: what follows its last explicit answer mark, if any.
        task: its name begins with a key of the table of affirming words, or nothing is read from statements.
        question: of a comparison of ages: who is compared.

    Returns:
        `yes`, `no` or None, and the rule that decided.
    """
    if marked:
        found = re.match(r"[\"'( ]*(yes|no)\b(?!\s+or\b)", marked, re.IGNORECASE)
        if found:
            return found[1].lower(), "answer mark"
    leading = [hit[1].lower() for hit in _LEADING.finditer(body)]
    if leading:
        return leading[-1], "leading word"
    if _OPEN.search(body):
        return None, "says it cannot be determined"
    said = _compared(body, question) if task.startswith(_COMPARES) else _stated(body, task)
    if said:
        return said, "statement"
    words = {word.lower() for word in re.findall(r"\b(yes|no)\b(?! (?:one|longer|matter))", body, re.IGNORECASE)}
    if len(words) == 1:
        return words.pop(), "only word"
    return None, "unparsed"


def _stated(body: str, task: str) -> str | None:
    pair = next((words for key, words in _SAYS.items() if task.startswith(key)), None)
    if pair is None:
        return None
    affirms, denies = (re.compile(pattern, re.IGNORECASE) for pattern in pair)
    for sentence in reversed(_sentences(body)):
        if re.search(r"\b(?:if|whether|need to|necessary to)\b", sentence):
            continue  # says what would have to be known
        deny = max((hit.end() for hit in denies.finditer(sentence)), default=-1)
        affirm = max((hit.end() for hit in affirms.finditer(sentence)), default=-1)
        if max(deny, affirm) >= 0:
            return "no" if deny >= affirm else "yes"  # `not even` ends where `even` ends
    return None


def _compared(body: str, question: str) -> str | None:
    """`A was born before B`: the name that stands nearest before the comparing word is the earlier one."""
    names = re.search(r"Was (.+) born earlier than (.+?)\?", question)
    if not names:
        return None
    first, second = (re.sub(r"\W*\(.*\)|,? Jr\.?$", "", name).split()[-1] for name in names.groups())
    sooner = r"\b(?:earlier|before|prior|preced\w*|predates?|first|older)\b"
    later = r"\b(?:later|after|younger)\b"
    for sentence in reversed(_sentences(body)):
        words = [*re.finditer(rf"{sooner}|{later}", sentence, re.IGNORECASE)]
        if not words or re.search(r"\b(?:asking|asks|compare)\b", sentence):
            continue
        before = sentence[: words[-1].start()]
        places = [before.casefold().rfind(name.casefold()) for name in (first, second)]
        if max(places) < 0:
            continue
        sooner_word = re.fullmatch(sooner, words[-1].group(), re.IGNORECASE) is not None
        denied = re.search(r"\bnot\b|n't\b", before[max(places) :]) is not None
        return "yes" if (places[0] > places[1]) == (sooner_word != denied) else "no"
    return None


def _sentences(body: str) -> list[str]:
    return re.split(r"(?<=[a-z0-9)\"'][.!])\s+|\n", body)
