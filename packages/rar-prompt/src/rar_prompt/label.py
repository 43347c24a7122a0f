"""`label`: a blind review queue: question, gold and reply are shown, never the method, the model or our verdict.

Replies that were called right are shown as well as those called wrong: re-reading only the wrong ones, as the paper's
authors did, can only raise accuracy.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.logging import MetricsLog

from rar_prompt.statistics import kappa

MARKS = {"r": "right", "w": "wrong", "u": "unclear"}


def review_queue(records: list[dict[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """Up to `n` replies in random order, half of them called right and half not, methods mixed."""
    draw = random.Random(f"label/{seed}")
    readable = [record for record in records if record["replies"] and record["gold"] is not None]
    right = [record for record in readable if record["outcome"] == "correct"]
    other = [record for record in readable if record["outcome"] != "correct"]
    draw.shuffle(right)
    draw.shuffle(other)
    share = max(n - len(other), min(n // 2, len(right)))
    queue = right[:share] + other[: n - min(share, len(right))]
    draw.shuffle(queue)
    return queue[:n]


def label_run(
    folder: str | Path,
    records: list[dict[str, Any]],
    *,
    n: int = 50,
    seed: int = 0,
    read: Callable[[str], str] = input,
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Ask a person about replies and write their marks to `labels.jsonl`; the same command goes on where it stopped.

    Args:
        folder: the run folder.
        records: its answers.
        n: replies to review.
        seed: of the queue.
        read: asks for a mark (`r`, `w`, `u`, or `q` to stop).
        show: shows a question.

    Returns:
        Agreement of the marks so far with our outcomes, in both directions.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    file = MetricsLog(Path(folder) / "labels.jsonl")
    done = {_place(row) for row in file.read()}
    queue = review_queue(records, n, seed)
    for number, record in enumerate(queue):
        if _place(record) in done:
            continue
        show(f"\n[{number + 1}/{len(queue)}] question: {record['question']}\ngold answer: {record['gold']}\n")
        show(f"reply: {record['replies'][0]}\n")
        mark = _ask(read)
        if mark is None:
            break
        # the condition is written down, not shown
        place = {name: record[name] for name in ("task", "id", "condition", "sample")}
        file.write(number, mark=mark, outcome=record["outcome"], **place)
    return agreement(file.read())


def _ask(read: Callable[[str], str]) -> str | None:
    while True:
        try:
            given = read("(r)ight, (w)rong, (u)nclear, (q)uit: ").strip().lower()[:1]
        except EOFError:
            return None
        if given == "q":
            return None
        if given in MARKS:
            return MARKS[given]


def _place(row: dict[str, Any]) -> str:
    return json.dumps([row["task"], row["id"], row["condition"], row["sample"]])


def agreement(labels: list[dict[str, Any]]) -> dict[str, Any]:
    """Marks against outcomes: how many of ours a person rejects, how many a person would accept."""
    clear = [row for row in labels if row["mark"] != "unclear"]
    ours = [row["outcome"] == "correct" for row in clear]
    theirs = [row["mark"] == "right" for row in clear]
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "labels": len(labels),
        "unclear": len(labels) - len(clear),
        "agreement": round(sum(a == b for a, b in pairs) / len(pairs), 4) if pairs else None,
        "kappa": round(kappa(ours, theirs), 4) if pairs else None,
        "called right, person says wrong": sum(a and not b for a, b in pairs),
        "called not right, person says right": sum(b and not a for a, b in pairs),
    }
