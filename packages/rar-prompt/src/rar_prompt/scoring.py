"""From replies to outcomes: correct, wrong, unparsed, truncated, error, unscored."""

from collections import Counter
from dataclasses import dataclass

from rar_prompt.extract import EXTRACTORS, Extraction, normal_gold
from rar_prompt.items import Item
from rar_prompt.methods import Solution

OUTCOMES = ("correct", "wrong", "unparsed", "truncated", "error", "unscored")


@dataclass(frozen=True)
class Scored:
    """The outcome of one question.

    Args:
        outcome: one of `OUTCOMES`; only `correct` counts as right, and the others are shown apart.
        value: the answer read, in normal form.
        rule: how it was read.
        agreement: share of the votes that gave `value` (1 for a single sample).
    """

    outcome: str
    value: str | None
    rule: str
    agreement: float = 1.0


def score(item: Item, kind: str, solutions: list[Solution]) -> Scored:
    """Read every sample, take the plurality (ties: the earliest), compare with the gold answer."""
    read = [_read(item, kind, solution) for solution in solutions]
    votes = Counter(extraction.value for extraction in read if extraction.value is not None)
    if not votes:
        cut = all(solution.truncated for solution in solutions)
        return Scored("truncated" if cut else "unparsed", None, read[0].rule, 0.0)
    most = max(votes.values())
    winner = next(extraction for extraction in read if extraction.value and votes[extraction.value] == most)
    outcome = "unscored"
    if item.answer is not None:
        outcome = "correct" if winner.value == normal_gold(item, kind) else "wrong"
    return Scored(outcome, winner.value, winner.rule, most / len(solutions))


def _read(item: Item, kind: str, solution: Solution) -> Extraction:
    if solution.truncated:  # what stands before the cut is not a final answer
        return Extraction(None, "truncated")
    return EXTRACTORS[kind](solution.text, item)
