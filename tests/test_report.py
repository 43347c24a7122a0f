"""One page of the smoke results of all packages."""

import re
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from shared_core.run_folder import read_json


def test_the_report_shows_every_claim_of_every_package_and_fetches_nothing(
    packages: list[Any], smoke: Callable[[Any], Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    folders = [smoke(package) / "smoke é 1" for package in packages]
    out = tmp_path / "report" / "index.html"
    built = run(sys.executable, "-m", "shared_core.report", *folders, "--out", out)
    assert (built.returncode, built.stdout, built.stderr) == (0, f"{out}\n", "")
    page = out.read_text(encoding="utf-8")
    claims = [claim for folder in folders for claim in read_json(folder / "result.json")["claims"]]
    for text in [package.name for package in packages] + [claim["id"] for claim in claims]:
        assert escape(text) in page
    assert page.count('<section class="claim">') == len(claims)
    figures = sum(len(claim.get("figures", [])) for claim in claims)
    assert len(re.findall(r'<img src="data:image/png;base64,iVBOR', page)) == figures
    assert not re.findall(r"<(?:script|link|iframe|object|embed)|(?:src|href)=\"(?!data:|#)|url\(|@import", page)
    assert page.isascii() or '<meta charset="utf-8">' in page
    # three letters are bound to occur in a megabyte of base64, so the pictures are taken out first
    assert "NaN" not in re.sub(r"data:image/png;base64,[^\"]*", "", page)
    assert "Undefined" not in page
