"""`replay`: the published figure from the public transcripts, by the coarse rule, by the marks, by our extractors."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rar_prompt.extract import EXTRACTORS, infer_kind, normal_gold
from rar_prompt.official_logs import Log, LogLine, coarse_right, read_logs
from rar_prompt.statistics import compare, kappa, wilson

# (model, task, method): percent, read from the figures of the project page
PUBLISHED = {
    ("gpt-4", "birthdate_day", "plain"): 54.29,
    ("gpt-4", "birthdate_day", "one-step"): 89.52,
    ("gpt-4", "birthdate_day", "two-step"): 75.24,
    ("gpt-4", "birthdate_month", "one-step"): 80.95,
    ("gpt-4", "birthdate_month", "two-step"): 74.29,
    ("gpt-4", "birthdate_year", "one-step"): 89.52,
    ("gpt-4", "birthdate_year", "two-step"): 85.71,
    ("gpt-4", "birthdate_earlier", "one-step"): 100.0,
    ("gpt-4", "birthdate_earlier", "two-step"): 100.0,
    ("gpt-4", "coin_val", "one-step"): 99.09,
    ("gpt-4", "coin_val", "two-step"): 98.18,
    ("gpt-4", "last_letter_concatenation", "plain"): 52.05,
    ("gpt-4", "last_letter_concatenation", "one-step"): 96.36,
    ("gpt-4", "last_letter_concatenation", "two-step"): 99.09,
    ("gpt-4", "last_letter_concatenation4", "one-step"): 68.64,
    ("gpt-4", "last_letter_concatenation4", "two-step"): 86.82,
    ("gpt-4", "sports", "one-step"): 84.54,
    ("gpt-4", "sports", "two-step"): 80.45,
    ("gpt-3.5-turbo-0613", "last_letter_concatenation", "two-step"): 82.65,
    ("gpt-3.5-turbo-0613", "last_letter_concatenation4", "two-step"): 57.73,
}


def find_transcripts() -> Path | None:
    """The folder in RAR_TRANSCRIPTS, or `../shared/data/rar` beside the current one, or None."""
    given = os.environ.get("RAR_TRANSCRIPTS")
    folder = Path(given) if given else Path("..", "shared", "data", "rar")
    return folder if folder.is_dir() else None


def replay(root: str | Path) -> dict[str, Any]:
    """Re-derive every log's percentage, compare the methods in pairs, and list where our extractor disagrees.

    Returns:
        `logs`, `pairs`, `disagreements`, lists of rows.

    Raises:
        InputError: if `root` holds no logs, or a line cannot be read.
    """
    logs = read_logs(root)
    rows, disagreements = [], []
    for log in logs:
        row, apart = _log_row(log)
        rows.append(row)
        disagreements += apart
    return {"logs": rows, "pairs": _pairs(logs), "disagreements": disagreements}


def _log_row(log: Log) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kind = next((line.item.kind for line in log.lines if line.item.kind), None)
    kind = kind or infer_kind([line.item for line in log.lines])
    ours, unparsed, apart = [], 0, []
    for line in log.lines:
        read = EXTRACTORS[kind](line.response, line.item)
        ours.append(read.value == normal_gold(line.item, kind))
        unparsed += read.value is None
        if ours[-1] != line.marked:
            apart.append(_disagreement(log, line, read.value, read.rule))
    marked = [line.marked for line in log.lines]
    n = len(log.lines)
    low, high = wilson(sum(marked), n)
    recomputed = [_coarse(log, line) for line in log.lines]
    row = {
        "model": log.model,
        "task": log.task,
        "method": log.method,
        "n": n,
        "dropped": log.dropped,
        "coarse": sum(recomputed) / n,
        "marked": sum(marked) / n,
        "low": low,
        "high": high,
        "published": PUBLISHED.get((log.model, log.task, log.method)),
        "ours": sum(ours) / n,
        "agreement": sum(a == b for a, b in zip(ours, marked, strict=True)) / n,
        "kappa": kappa(ours, marked),
        "unparsed": unparsed,
    }
    return row, apart


def _coarse(log: Log, line: LogLine) -> bool:
    return coarse_right(log.task, line.item.answer or "", line.response, log.method == "one-step")


def _disagreement(log: Log, line: LogLine, value: str | None, rule: str) -> dict[str, Any]:
    return {
        "model": log.model,
        "task": log.task,
        "method": log.method,
        "question": line.item.question,
        "gold": line.item.answer,
        "read": value,
        "rule": rule,
        "marked": line.marked,
        "by_hand": line.marked and not line.coarse,
        "response": line.response,
    }


def _pairs(logs: Sequence[Log]) -> list[dict[str, Any]]:
    """Every two methods of one task and model on the questions that both logs hold."""
    rows = []
    order = ("plain", "one-step", "two-step")
    for first in logs:
        for second in logs:
            same = (first.task, first.model) == (second.task, second.model)
            if not same or order.index(first.method) >= order.index(second.method):
                continue
            marks = {line.item.question: line.marked for line in first.lines}
            both = [line for line in second.lines if line.item.question in marks]
            found = compare([marks[line.item.question] for line in both], [line.marked for line in both])
            rows.append(
                {"model": first.model, "task": first.task, "first": first.method, "second": second.method}
                | {name: getattr(found, name) for name in ("n", "lost", "gained", "difference", "low", "high", "p")}
            )
    return rows


def replay_tables(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of `replay` for a terminal or a page."""
    logs = [
        [
            *(row[name] for name in ("model", "task", "method", "n")),
            f"{100 * row['coarse']:.2f}",
            f"{100 * row['marked']:.2f}",
            f"{100 * row['low']:.1f} .. {100 * row['high']:.1f}",
            "-" if row["published"] is None else f"{row['published']:.2f}",
            f"{100 * row['ours']:.2f}",
            f"{100 * row['agreement']:.1f}",
            f"{row['kappa']:.2f}",
            row["unparsed"],
        ]
        for row in found["logs"]
    ]
    heads = ["model", "task", "method", "n", "coarse %", "marked %", "95 %", "published %", "ours %", "agree %"]
    pairs = [
        [
            *(row[name] for name in ("model", "task", "first", "second", "n", "lost", "gained")),
            f"{100 * row['difference']:+.2f}",
            f"{100 * row['low']:.1f} .. {100 * row['high']:.1f}",
            f"{row['p']:.3g}",
        ]
        for row in found["pairs"]
    ]
    pair_heads = ["model", "task", "first", "second", "n", "lost", "gained", "difference", "95 %", "McNemar p"]
    return [
        {"title": "Published transcripts", "heads": [*heads, "kappa", "unparsed"], "rows": logs, "note": ""},
        {"title": "Paired, with the authors' marks", "heads": pair_heads, "rows": pairs, "note": ""},
    ]
