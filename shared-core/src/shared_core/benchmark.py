"""Ours and a peer in alternation on the same inputs: ratios with their spread.

A package's `benchmarks/bench_*.py` each define `run() -> list[Comparison]`; `python -m shared_core.benchmark
packages/NAME ...` runs every file in a process of its own (so that peak memory is its own), writes
`packages/NAME/benchmarks/results.json` and prints one table. `[tool.collection.goals]` in the package's pyproject.toml
says which ratio was aimed at.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from shared_core.errors import InputError
from shared_core.files import write_json
from shared_core.run_folder import read_json


@dataclass(frozen=True)
class Comparison:
    """One question answered: `ratio` > 1 means ours is better by that factor.

    Args:
        id: the question in a word (`step`, `wall`, `calls`, ...).
        question: one line.
        peer: what a user would pick instead, with its version.
        unit: of `ours` and `theirs`.
        ours: median over the repeats.
        theirs: median over the repeats.
        ratio: median of the paired ratios.
        ratio_low: smallest paired ratio.
        ratio_high: largest paired ratio.
        same_result: whether both were checked to compute the same thing.
    """

    id: str
    question: str
    peer: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    ratio_low: float
    ratio_high: float
    same_result: bool


def compare(
    id: str,
    question: str,
    peer: str,
    ours: list[float],
    theirs: list[float],
    *,
    same_result: bool,
    unit: str = "s",
    better: Literal["lower", "higher"] = "lower",
) -> Comparison:
    """Pair the i-th measurement of each side and summarise the ratios.

    Raises:
        ValueError: if the lists differ in length or are empty.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"need as many measurements of both sides, got {len(ours)} and {len(theirs)}")
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [b / a if better == "lower" else a / b for a, b in pairs]
    return Comparison(
        id=id,
        question=question,
        peer=peer,
        unit=unit,
        ours=statistics.median(ours),
        theirs=statistics.median(theirs),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        same_result=same_result,
    )


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int = 5, warmup: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of each call, A B A B ..., after `warmup` uncounted rounds; CUDA work is waited for."""
    for _ in range(warmup):
        ours()
        theirs()
    return tuple(map(list, zip(*[(seconds(ours), seconds(theirs)) for _ in range(repeats)], strict=True)))  # type: ignore[return-value]


def seconds(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    _wait_for_gpu()
    start = time.perf_counter()
    call()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def read_goals(package: str | Path) -> dict[str, float]:
    """The ratios aimed at, from `[tool.collection.goals]`: a pattern as `goal_of` reads it, and the ratio."""
    import tomllib

    path = Path(package) / "pyproject.toml"
    about = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    goals: dict[str, float] = about.get("tool", {}).get("collection", {}).get("goals", {})
    return goals


def goal_of(row: Mapping[str, Any], goals: Mapping[str, float]) -> float | None:
    """The ratio that a comparison should reach: of the first pattern that fits, None where there is no goal for it.

    A pattern fits `id | peer | question` from its beginning, with `*` for any text: `step`, `step-*`,
    `step | davda54/sam | * 82 tensors*`.
    """
    text = f"{row['id']} | {row['peer']} | {row['question']}"
    fitting = (
        goal for pattern, goal in goals.items() if any(fnmatchcase(text, p) for p in (pattern, f"{pattern} | *"))
    )
    return next(fitting, None)


def format_goal(row: Mapping[str, Any], goals: Mapping[str, float]) -> str:
    """`2x`, `2x, missed` where the ratio is below it, or nothing."""
    goal = goal_of(row, goals)
    return "" if goal is None else f"{goal:g}x" if row["ratio"] >= goal else f"{goal:g}x, missed"


def print_results(results: Mapping[str, list[dict[str, Any]]], goals: Mapping[str, Mapping[str, float]]) -> None:
    """Print the comparisons of packages as one table on stdout, with the goals of each package."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("package", "id", "question", "peer", "ours", "theirs", "ratio", "spread", "goal", "same result"):
        table.add_column(column, overflow="fold")
    for package, rows in results.items():
        for row in rows:
            cells = [package, row["id"], row["question"], row["peer"]]
            cells += [f"{row[side]:.4g} {row['unit']}" for side in ("ours", "theirs")]
            cells += [f"{row['ratio']:.2f}x", f"{row['ratio_low']:.2f} .. {row['ratio_high']:.2f}"]
            cells += [format_goal(row, goals[package]), "yes" if row["same_result"] else "NO"]
            table.add_row(*map(Text, cells))
        table.add_section()
    # outside a terminal nothing says how wide a line may be, and people read it in logs and with grep
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table)


def _run_file(file: str, out: str) -> None:
    import importlib

    sys.path.insert(0, str(Path(file).parent))
    # imported, not only executed: worker processes find its classes and functions by the module's name
    module = importlib.import_module(Path(file).stem)
    write_json(out, [asdict(row) for row in module.run()])


def _run_package(package: Path) -> list[dict[str, Any]]:
    files = sorted((package / "benchmarks").glob("bench_*.py"))
    if not files:
        raise InputError(f"{package}/benchmarks holds no bench_*.py")
    results: list[dict[str, Any]] = []
    for file in files:
        print(f"running {file}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "rows.json")
            code = "import sys; from shared_core.benchmark import _run_file; _run_file(*sys.argv[1:])"
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code, str(file.resolve()), str(out)], check=True)
            print(f"{file.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            results += read_json(out)
    write_json(package / "benchmarks" / "results.json", {"package": package.name, "results": results})
    return results


def main(argv: list[str] | None = None) -> int:
    """`python -m shared_core.benchmark packages/NAME ...`; a package that fails does not stop the others."""
    paths = [Path(argument).resolve() for argument in (sys.argv[1:] if argv is None else argv)]
    results: dict[str, list[dict[str, Any]]] = {}
    complaints: list[str] = []
    code = 0
    if not paths:
        print("usage: python -m shared_core.benchmark packages/NAME ...", file=sys.stderr)
        return 2
    for path in paths:
        try:
            results[path.name] = _run_package(path)
        except InputError as error:
            complaints.append(str(error))
            code = max(code, 2)
        except subprocess.CalledProcessError as error:
            complaints.append(f"{error.cmd[3]} failed")
            code = max(code, 1)
    if results:
        print_results(results, {path.name: read_goals(path) for path in paths})
    print(*complaints, sep="\n", end="\n" * bool(complaints), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
