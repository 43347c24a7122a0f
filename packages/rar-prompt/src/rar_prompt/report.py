"""Tables on a terminal and one HTML page, without anything fetched from elsewhere."""

import base64
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from shared_core.files import atomic_path, write_text

from rar_prompt.summary import Records

Table = dict[str, Any]
SHOWN = 40  # questions shown in full on the page


def number(value: Any, digits: int = 4) -> str:
    """A cell: `unknown` for None, shares and p-values short."""
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(value)


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "-" if value is None else f"{100 * value:.2f}"


def run_tables(result: dict[str, Any]) -> list[Table]:
    """The tables of a run."""
    tables = [_conditions(result["conditions"])]
    if result["comparisons"]:
        tables.append(_comparisons(result["comparisons"]))
    if result["best"]:
        heads = ["task", "model", "best", "label", "gain", "corrected gain", "p"]
        rows = [
            [
                r["task"],
                r["model"],
                r["best"],
                r["label"],
                percent(r["gain"]),
                percent(r["corrected_gain"]),
                number(r["p"]),
            ]
            for r in result["best"]
        ]
        note = "The gain of a variant that was chosen on these items is too good; the corrected one is out of bag."
        tables.append({"title": "Best variant", "heads": heads, "rows": rows, "note": note})
    if result["drift"]:
        heads = ["task", "rephraser", "rephrasings", "echo %", "leak %", "lost %", "same %"]
        rows = [
            [r["task"], r["rephraser"], r["n"], *(percent(r[name]) for name in ("echo", "leak", "lost", "same"))]
            for r in result["drift"]
        ]
        tables.append({"title": "Rephrasings that went wrong", "heads": heads, "rows": rows, "note": ""})
    return tables


def _conditions(rows: list[dict[str, Any]]) -> Table:
    heads = ["task", "condition", "n", "accuracy %", "95 %", "coverage %", "outcomes", "calls", "tokens", "cost"]
    heads += ["tokens/correct", "cost/correct", "s/correct"]
    cells = []
    for row in rows:
        interval = "-" if row["low"] is None else f"{percent(row['low'])} .. {percent(row['high'])}"
        what = ", ".join(f"{name} {count}" for name, count in row["outcomes"].items())
        cells.append(
            [
                row["task"],
                row["condition"],
                row["n"],
                percent(row["accuracy"]),
                interval,
                percent(row["coverage"]),
                what,
                row["calls"],
                row["tokens"],
                number(row["cost"]),
                number(row["tokens_per_correct"]),
                number(row["cost_per_correct"]),
                number(row["seconds_per_correct"], 3),
            ]
        )
    note = "A rephrasing that several responders share is counted for each of them; it was paid once."
    return {"title": "Accuracy", "heads": heads, "rows": cells, "note": note}


def _comparisons(rows: list[dict[str, Any]]) -> Table:
    heads = ["task", "against plain", "pairs", "lost", "gained", "difference", "95 %", "p", "p (Holm)", "clusters"]
    cells = [
        [
            r["task"],
            r["comparison"],
            r["n"],
            r["lost"],
            r["gained"],
            percent(r["difference"]),
            f"{percent(r['low'])} .. {percent(r['high'])}",
            number(r["p"], 3),
            number(r["p_holm"], 3),
            r["clusters"],
        ]
        for r in rows
    ]
    note = "Exact McNemar; where items share a cluster, sign flips and a bootstrap over whole clusters."
    return {"title": "Paired comparisons", "heads": heads, "rows": cells, "note": note}


def print_tables(tables: list[Table]) -> None:
    """Print on stdout."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in tables:
        shown = RichTable(title=table["title"], title_justify="left")
        for head in table["heads"]:
            shown.add_column(head, overflow="fold")
        for row in table["rows"]:
            shown.add_row(*(Text(str(cell)) for cell in row))
        console.print(shown)


def write_report(folder: Path, result: dict[str, Any], records: Records) -> Path:
    """Write `report.html` and `figures/*.png` into a run folder and return the page's path."""
    from rar_prompt.figures import run_figures

    pictures = {}
    for name, figure in run_figures(result, records).items():
        with atomic_path(folder / "figures" / f"{name}.png") as aside:
            figure.savefig(aside, format="png", dpi=130)
        pictures[name] = base64.b64encode((folder / "figures" / f"{name}.png").read_bytes()).decode()
    templates = result["templates"]
    lines = [
        f"Template set {templates['id']} version {templates['version']} ({templates['hash']}); "
        f"{result['answered']} of {result['questions']} answers.",
    ]
    lines += [f"Stopped: {result['stopped']}."] if result["stopped"] else []
    wrong = [record for record in records if record["outcome"] not in ("correct", "unscored")][:SHOWN]
    details = [
        {
            "title": f"{record['outcome']}: {record['task']} {record['id']}, {record['condition']}",
            "text": "\n\n".join(
                [f"question: {record['question']}", f"gold: {record['gold']}   read: {record['extracted']}"]
                + [f"rephrased: {text}" for text in record["rephrased"]]
                + [f"reply: {text}" for text in record["replies"]]
                + ([f"error: {record['error']}"] if record["error"] else [])
            ),
        }
        for record in wrong
    ]
    title = f"The first {len(wrong)} answers that are not correct"
    page = render_page("rar-prompt run", lines, run_tables(result), pictures, title, details)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def render_page(
    title: str,
    lines: list[str],
    tables: list[Table],
    pictures: dict[str, str],
    details_title: str = "",
    details: list[dict[str, str]] | None = None,
) -> str:
    """One self-contained page; everything is escaped, for replies are foreign text."""
    import jinja2

    text = resources.files("rar_prompt").joinpath("pages", "report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True).from_string(text)
    return template.render(
        title=title, lines=lines, tables=tables, pictures=pictures, details_title=details_title, details=details or []
    )
