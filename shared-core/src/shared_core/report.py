"""One self-contained HTML page from many `result.json`: tables, verdicts and figures, no server and no network.

python -m shared_core.report RUN_FOLDER... --out report/index.html
"""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_core.claims import format_value
from shared_core.cli import run
from shared_core.errors import InputError
from shared_core.files import write_text
from shared_core.run_folder import read_config, read_json

RESULT_FIELDS = {"package", "version", "scale", "seed", "device", "seconds", "claims"}
CLAIM_FIELDS = {"id", "statement", "where", "quantity", "expected", "measured", "uncertainty", "verdict", "note"}
VERDICTS = ("reproduced", "not reproduced", "not at this scale")


def build_report(folders: Sequence[str | Path], out: str | Path = "report/index.html") -> Path:
    """Write the page for the given run folders and return its path.

    Raises:
        InputError: if a folder holds no `result.json`, or one that is not a reproduction's.
    """
    if not folders:
        raise InputError("runs: no run folder given, so there is nothing to report")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shared_core"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["value"] = format_value
    page = environment.get_template("report.html.jinja").render(
        runs=[_load(Path(folder)) for folder in sorted(map(Path, folders))], verdicts=VERDICTS
    )
    write_text(out, page)
    return Path(out)


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.exists():
        raise InputError(f"{folder} holds no result.json: its reproduction did not finish")
    result = read_json(path)
    if not isinstance(result, dict) or RESULT_FIELDS - set(result) or not isinstance(result["claims"], list):
        raise InputError(f"{path} is not the result of a reproduction")
    for row in result["claims"]:
        missing = CLAIM_FIELDS - set(row)
        if missing:
            raise InputError(f"{path}: claim {row.get('id', '?')} has no {sorted(missing)[0]}")
    config = folder / "config.yaml"
    result["command"] = read_config(config).get("command", "") if config.exists() else ""
    result["counts"] = {verdict: sum(row["verdict"] == verdict for row in result["claims"]) for verdict in VERDICTS}
    for row in result["claims"]:
        row["images"] = [_inline(folder, figure) for figure in row.get("figures", [])]
    return result


def _inline(folder: Path, figure: str) -> dict[str, str]:
    path = folder / figure
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / 'result.json'} names the figure {figure}, which is not there")
    return {"name": path.stem, "data": base64.b64encode(path.read_bytes()).decode()}


def report(runs: list[str], out: str = "report/index.html") -> None:
    """Build one page from run folders.

    Args:
        runs: folders written by `NAME reproduce`.
        out: the page.
    """
    print(build_report(runs, out))


def main() -> int:
    """`python -m shared_core.report RUN... --out PAGE`."""
    arguments = sys.argv[1:]
    split = next((index for index, item in enumerate(arguments) if item.startswith("-")), len(arguments))
    return run("shared-core", [report], ["report", json.dumps(arguments[:split]), *arguments[split:]])


if __name__ == "__main__":
    sys.exit(main())
