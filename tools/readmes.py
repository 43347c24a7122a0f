"""Tables in the READMEs, made from what was measured: nobody copies a number by hand.

    python tools/readmes.py --collect report/runs/laptop   keep finished reproductions as packages/NAME/claims.json
    python tools/readmes.py                                write the tables
    python tools/readmes.py --check                        exit 1 where a README is not what its results say

A README has its table between `<!-- claims -->` or `<!-- speed -->` and `<!-- end -->` (the root's: `packages`,
`missed`, `slower`). A package's `[tool.collection]` names its paper, its method in a line, a first command, which claim
and which comparison stand for it in the root's table, the claim's headline in plain words, the ratios aimed at, and why
a claim does not hold or a ratio is missed.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_core.benchmark import format_goal, goal_of, read_goals
from shared_core.claims import format_value

ROOT = Path(__file__).parents[1]
KEPT = ("id", "statement", "where", "quantity", "expected", "measured", "uncertainty", "verdict", "note", "seconds")


def read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def cell(text: str) -> str:
    """Text that neither ends a table's cell nor its row."""
    return " ".join(text.split()).replace("|", "\\|")


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(map(cell, line)) + " |" for line in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def interval(row: dict[str, Any]) -> str:
    """What is known of the measured value's uncertainty."""
    return "exact" if row["uncertainty"] is None else "{} .. {}".format(*map(format_value, row["uncertainty"]))


def claims_table(claims: dict[str, Any]) -> str:
    """Every claim with its verdict, and the sum above them."""
    rows = claims["claims"]
    count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in dict.fromkeys(_verdicts(rows))}
    summary = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
    command = f"`{claims['package']} reproduce --scale {claims['scale']}`, seed {claims['seed']}"
    head = f"{command}, {claims['seconds']:.0f} s: {summary}."
    columns = ("claim", "quantity", "expected", "measured", "interval", "verdict")
    cells = [
        (
            f"`{row['id']}`",
            row["quantity"],
            row["expected"],
            format_value(row["measured"]),
            interval(row),
            row["verdict"],
        )
        for row in rows
    ]
    return head + "\n\n" + table(columns, cells)


def _verdicts(rows: list[dict[str, Any]]) -> list[str]:
    return sorted((row["verdict"] for row in rows), key=["reproduced", "not reproduced", "not at this scale"].index)


def speed_table(results: dict[str, Any], goals: dict[str, float]) -> str:
    """Every comparison with its spread, and the ratio that was aimed at."""
    columns = ("id", "question", "peer", "ours", "theirs", "ratio", "spread", "goal", "same result")
    cells = [
        (
            f"`{row['id']}`",
            row["question"],
            row["peer"],
            *(f"{row[side]:.4g} {row['unit']}" for side in ("ours", "theirs")),
            f"{row['ratio']:.3g}x",
            f"{row['ratio_low']:.3g} .. {row['ratio_high']:.3g}",
            format_goal(row, goals),
            "yes" if row["same_result"] else "no",
        )
        for row in results["results"]
    ]
    return table(columns, cells)


def headline(text: str, measured: Any) -> str:
    """The sentence with what was measured in it: `{value}`, or several values by name, `_` for what is no letter."""
    values = measured if isinstance(measured, dict) else {"value": measured}
    return text.format(**{re.sub(r"\W+", "_", name): value for name, value in values.items()})


class Package:
    """What one member knows of itself."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        everything = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        self.about = everything["tool"]["collection"]
        self.claims = read(folder / "claims.json")
        self.results = read(folder / "benchmarks" / "results.json")
        self.goals = read_goals(folder)

    def front_row(self) -> tuple[str, ...]:
        """Its line in the root's table."""
        claim = next(row for row in self.claims["claims"] if row["id"] == self.about["claim"])
        faster = next(row for row in self.results["results"] if row["id"] == self.about["speed"])
        arxiv = self.about["arxiv"]
        return (
            f"[{self.name}](packages/{self.name}/README.md)",
            f"{self.about['paper']} ([{arxiv}](https://arxiv.org/abs/{arxiv}))",
            self.about["method"],
            f"`{self.about['first']}`",
            f"{headline(self.about['headline'], claim['measured'])} ({claim['verdict']})",
            f"{faster['ratio']:.3g}x {faster['peer']}",
        )

    def missed(self) -> list[str]:
        """A line for every claim that was not reproduced."""
        why = self.about.get("missed", {})
        return [
            f"- {self.name}, `{row['id']}`. {row['statement'].rstrip('.')}. Not so here: {why[row['id']]}."
            for row in self.claims["claims"]
            if row["verdict"] == "not reproduced"
        ]

    def slower(self) -> list[str]:
        """A line for every comparison that is below the ratio aimed at."""
        why = self.about.get("slower", {})
        return [
            f"- {self.name}, `{row['id']}`. {row['ratio']:.3g}x where {goal:g}x was aimed at, beside {row['peer']} "
            f"({row['question'].partition(';')[0]}): {why[row['id']]}."
            for row in self.results["results"]
            if (goal := goal_of(row, self.goals)) is not None and row["ratio"] < goal
        ]


def filled(text: str, parts: dict[str, str]) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- end -->` replaced."""
    for name, body in parts.items():
        place = rf"(?s)(?<=<!-- {name} -->\n).*?(?=<!-- end -->)"
        text = re.sub(place, body.replace("\\", r"\\") + "\n", text, count=1)
    return text


def readmes(root: Path) -> dict[Path, str]:
    """Every README as its results would have it."""
    packages = [Package(path.parent) for path in sorted(root.glob("packages/*/pyproject.toml"))]
    pages = {}
    for package in packages:
        parts = {"claims": claims_table(package.claims), "speed": speed_table(package.results, package.goals)}
        path = package.folder / "README.md"
        pages[path] = filled(path.read_text(encoding="utf-8"), parts)
    columns = ("package", "paper", "the method", "first command", "headline claim as measured", "speed")
    front = {
        "packages": table(columns, [package.front_row() for package in packages]),
        "missed": "\n".join(line for package in packages for line in package.missed()),
        "slower": "\n".join(line for package in packages for line in package.slower()),
    }
    pages[root / "README.md"] = filled((root / "README.md").read_text(encoding="utf-8"), front)
    return pages


def collect(runs: Path, root: Path) -> None:
    """Keep the results of whole reproductions (every claim measured) in the packages' folders."""
    for path in sorted(runs.glob("*/result.json")):
        result = read(path)
        result["claims"] = [{key: row[key] for key in KEPT} for row in result["claims"]]
        text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (root / "packages" / path.parent.name / "claims.json").write_text(text, encoding="utf-8")


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--collect", type=Path, metavar="RUNS", help="folder with a run folder per package")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if something would change")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, ROOT)
    stale = {path: text for path, text in readmes(ROOT).items() if text != path.read_text(encoding="utf-8")}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} {'is not what its results say: make readmes' if options.check else 'written'}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and options.check)


if __name__ == "__main__":
    sys.exit(main())
