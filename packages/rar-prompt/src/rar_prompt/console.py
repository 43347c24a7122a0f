"""What the verbs print."""

import json
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.files import write_json, write_text

from rar_prompt.report import number, percent, print_tables, render_page, run_tables

__all__ = [
    "print_answer",
    "print_comparison",
    "print_mapping",
    "print_replay",
    "print_run",
    "print_scores",
    "print_tables",
]


def print_mapping(values: dict[str, Any], as_json: bool = False) -> None:
    """One `name: value` a line, or JSON."""
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=2))
        return
    for name, value in values.items():
        if value is not None:
            print(f"{name}: {number(value)}")


def print_answer(answer: dict[str, Any], as_json: bool) -> None:
    """The reply to one question."""
    if as_json:
        print_mapping(answer, True)
        return
    if answer["rephrased"] is not None:
        print(f"rephrased ({answer['rephraser']}): {answer['rephrased']}\n")
    for text in answer["answers"] or [answer["answer"]]:
        print(f"answer ({answer['model']}, {answer['method']}): {text}")
    if answer["truncated"]:
        print("(cut off at --sampling.max_tokens)")
    if answer["read"] is not None:
        print(f"read as: {answer['read']}")
    tokens = f"{answer['prompt_tokens']} + {answer['completion_tokens']} tokens"
    print(f"\n{tokens}, cost {number(answer['cost'])}, {answer['seconds']:.1f} s")


def print_run(result: dict[str, Any], folder: str, as_json: bool = False) -> None:
    """The tables of a run."""
    if as_json:
        print_mapping(result, True)
        return
    print_tables(run_tables(result))
    session = result["session"]
    print(
        f"{result['answered']} of {result['questions']} answers; this session: {session['calls']} calls, "
        f"{session['cached']} from the record, {session['failed']} failed; "
        f"spent in all: {result['spent']['tokens']} tokens"
    )
    if result.get("first_error"):
        print(f"first error: {result['first_error']}")
    print(f"{Path(folder) / 'report.html'}")


def print_scores(found: dict[str, Any], as_json: bool) -> None:
    """Outcomes of replies made elsewhere."""
    if as_json:
        print_mapping(found, True)
        return
    rows = []
    for row in found["rows"]:
        interval = f"{percent(row['low'])} .. {percent(row['high'])}"
        outcomes = ", ".join(f"{name} {count}" for name, count in row["outcomes"].items())
        rows.append([row["task"], row["n"], percent(row["accuracy"]), interval, percent(row["coverage"]), outcomes])
    heads = ["task", "n", "accuracy %", "95 %", "coverage %", "outcomes"]
    print_tables([{"title": "Scores", "heads": heads, "rows": rows, "note": ""}])


def print_comparison(found: dict[str, Any], as_json: bool) -> None:
    """A paired comparison."""
    if as_json:
        print_mapping(found, True)
        return
    heads = ["first", "second", "pairs", "lost", "gained", "difference", "95 %", "p", "clusters", "unpaired"]
    row = [found[name] for name in ("first", "second", "n", "lost", "gained")]
    row += [percent(found["difference"]), f"{percent(found['low'])} .. {percent(found['high'])}"]
    row += [number(found["p"], 3), found["clusters"], found["unpaired"]]
    print_tables([{"title": "Paired comparison", "heads": heads, "rows": [row], "note": ""}])


def print_replay(found: dict[str, Any], out: str | None, as_json: bool) -> None:
    """The transcripts' tables, and the disagreements on a page or in a file."""
    from rar_prompt.transcripts import replay_tables

    tables = replay_tables(found)
    if out and out.endswith(".json"):
        write_json(out, found)
    elif out and out.endswith(".html"):
        details = [
            {
                "title": f"{row['task']} {row['method']}: gold {row['gold']}, read {row['read']} ({row['rule']}), "
                f"marked {'right' if row['marked'] else 'wrong'}{' by hand' if row['by_hand'] else ''}",
                "text": f"{row['question']}\n\n{row['response']}",
            }
            for row in found["disagreements"]
        ]
        title = "Where our extractor and the marks disagree"
        write_text(out, render_page("Published transcripts", [], tables, {}, title, details))
    elif out:
        raise InputError(f"--out {out}: give a .html or .json file")
    if as_json:
        print_mapping(found, True)
        return
    print_tables(tables)
    for row in found["disagreements"]:
        mark = "right" if row["marked"] else "wrong"
        reply = " ".join(row["response"].split())
        read = f"gold {row['gold']}, read {row['read']} ({row['rule']}), marked {mark}"
        print(f"{row['task']} {row['method']}: {read}: {reply[:110]}")
    print(f"{len(found['disagreements'])} rows disagree" + (f"; all of them in {out}" if out else ""))
