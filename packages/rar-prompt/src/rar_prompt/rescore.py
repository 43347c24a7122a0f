"""What is done with finished runs: score again, compare, rebuild the report; and the folder of an audit."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.files import write_text
from shared_core.run_folder import RunFolder, read_json

from rar_prompt.ask import run_async, score_rows
from rar_prompt.auditing import audit, audit_table
from rar_prompt.caller import Caller
from rar_prompt.chat import Backend, Sampling
from rar_prompt.items import Item
from rar_prompt.journal import Journal
from rar_prompt.readers import read_items
from rar_prompt.report import render_page, write_report
from rar_prompt.run import read_records
from rar_prompt.statistics import wilson
from rar_prompt.summary import comparison, summarise
from rar_prompt.templates import TemplateSet


def rescore(tasks: str, replies: str, out: str | None = None) -> dict[str, Any]:
    """Score replies against a task file.

    Args:
        tasks: task file with answers.
        replies: jsonl with `id` and `reply`, or a run folder of one condition.
        out: .jsonl file for a row per question.

    Raises:
        InputError: if there are no golds, or replies of unknown questions.
    """
    items = read_items(tasks)
    if items[0].answer is None:
        raise InputError(f"{tasks}: there are no answers to score against")
    texts = _replies(replies)
    unknown = sorted(set(texts) - {item.id for item in items})
    if unknown:
        raise InputError(f"{replies}: the id {unknown[0]!r} is no question of {tasks}")
    rows = []
    for task in dict.fromkeys(item.task for item in items):
        rows += score_rows([item for item in items if item.task == task], texts)
    if out:
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    tables = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        outcomes = Counter(row["outcome"] for row in own)
        low, high = wilson(outcomes["correct"], len(own))
        share = sum(row["extracted"] is not None for row in own) / len(own)
        tables.append(
            {"task": task, "n": len(own), "accuracy": outcomes["correct"] / len(own), "low": low, "high": high}
            | {"coverage": share, "outcomes": dict(outcomes)}
        )
    return {"rows": tables}


def _replies(path: str) -> dict[str, str]:
    if Path(path).is_dir():
        records = read_records(path)
        conditions = {record["condition"] for record in records}
        if len(conditions) > 1:
            raise InputError(f"{path} holds several conditions; score takes one (`report` shows them all)")
        return {record["id"]: record["replies"][0] for record in records if record["replies"]}
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    found = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            identity, text = str(row["id"]), row["reply"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: an object with id and reply is wanted") from error
        if not isinstance(text, str):
            raise InputError(f"{path}, line {number}: reply must be text, got {type(text).__name__}")
        if identity in found:
            raise InputError(f"{path}, line {number}: the id {identity!r} occurs twice")
        found[identity] = text
    return found


def compare_runs(first: str, second: str, condition: str | None = None, against: str | None = None) -> dict[str, Any]:
    """One condition of each run, paired by task, question and sample.

    Raises:
        InputError: if a condition is unknown or ambiguous, or the runs share no question.
    """
    before, name_before = _condition(first, condition)
    after, name_after = _condition(second, against)
    row = comparison(name_after, before, after)
    if row is None:
        raise InputError(f"{first} and {second} share no scored question")
    unpaired = len(before) + len(after) - 2 * row["n"]
    return {"first": name_before, "second": name_after, **row, "unpaired": unpaired}


def _condition(folder: str, name: str | None) -> tuple[list[dict[str, Any]], str]:
    records = read_records(folder)
    names = list(dict.fromkeys(record["condition"] for record in records))
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        what = f"there is no condition {name!r}" if name else "say which condition"
        raise InputError(f"{folder}: {what}; it has {', '.join(repr(each) for each in names)}")
    return [record for record in records if record["condition"] == name], name


def rebuild_report(folder: str, as_csv: bool = False) -> dict[str, Any]:
    """Summarise a run's records once more and write its page, figures and (on wish) csv tables."""
    path = Path(folder)
    records = read_records(path)
    result = {**read_json(path / "result.json"), **summarise(records)}
    write_report(path, result, records)
    if as_csv:
        for name in ("conditions", "comparisons"):
            _write_csv(path / f"{name}.csv", result[name])
    return result


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["empty"])
    writer.writeheader()
    writer.writerows({key: json.dumps(v) if isinstance(v, dict) else v for key, v in row.items()} for row in rows)
    write_text(path, text.getvalue())


def audit_to_folder(
    items: Sequence[Item],
    models: Sequence[Backend],
    templates: TemplateSet,
    rephrasings: int,
    sampling: Sampling,
    out: str | Path | None,
) -> dict[str, Any]:
    """Audit into a run folder (`audit.jsonl`, `report.html`); the same command goes on after a kill.

    Returns:
        The table of the most ambiguous questions.
    """
    if rephrasings < 2:
        raise InputError(f"rephrasings must be at least 2 to disagree, got {rephrasings}")
    settings = {
        "verb": "audit",
        "questions": [item.question for item in items],
        "models": [model.identity() for model in models],
        "templates": templates.hash,
        "rephrasings": rephrasings,
        "sampling": asdict(sampling),
    }
    with RunFolder(out, package="rar-prompt", settings=settings) as folder:
        journal = Journal(folder.path / "calls.jsonl")
        try:
            caller = Caller(journal, templates.hash, give_up=max(8, *(model.concurrency for model in models)))
            work = audit(items, models, templates, caller, rephrasings=rephrasings, sampling=sampling)
            rows = run_async(work, list(models))
        finally:
            journal.close()
        write_text(folder.path / "audit.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        table = audit_table(rows)
        details = [
            {
                "title": f"{row['disagreement']:.2f}  {row['question']}",
                "text": "\n".join(f"{r['answer']} ({100 * r['share']:.0f} %): {r['as']}" for r in row["readings"]),
            }
            for row in rows
        ]
        write_text(folder.path / "report.html", render_page("Audit", [], [table], {}, "Competing readings", details))
    return table
