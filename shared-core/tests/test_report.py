"""The page: self-contained, escaped, and refused in one line where a piece is missing."""

import html.parser
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared_core import InputError
from shared_core.report import build_report

PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x onerror=y> & \"quoted\""


class _Loads(html.parser.HTMLParser):
    """Everything that a browser would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster"):
                self.sources.append(value or "")
            if name in ("href", "action"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def _claim(**changes: Any) -> dict[str, Any]:
    claim = {
        "id": "calls",
        "statement": "Few calls.",
        "where": "Theorem 3.6",
        "quantity": "calls",
        "expected": "< 2",
        "measured": 0.12345678,
        "uncertainty": [0.1, 0.2],
        "verdict": "reproduced",
        "note": "",
        "figures": ["figures/calls.png"],
        "seconds": 0.1,
    }
    return claim | changes


def _run(folder: Path, *claims: dict[str, Any], **changes: Any) -> Path:
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "calls.png").write_bytes(PNG)
    result = {"package": "sam-cnn", "version": "0.1.0", "scale": "smoke", "seed": 0, "device": "cpu", "seconds": 1.5}
    (folder / "result.json").write_text(json.dumps(result | {"claims": claims or [_claim()]} | changes))
    (folder / "config.yaml").write_text("command: sam-cnn reproduce --scale smoke\nsettings: {}\n")
    return folder


def test_the_page_has_every_claim_and_fetches_nothing(tmp_path: Path) -> None:
    folders = [
        _run(tmp_path / "b", _claim(), _claim(id="open", verdict="not at this scale", note="needs a GPU", figures=[])),
        _run(tmp_path / "a", _claim(verdict="not reproduced", uncertainty=None), package="icl-linear"),
    ]
    path = build_report(folders, tmp_path / "page" / "index.html")
    page = path.read_text(encoding="utf-8")
    for text in (
        "sam-cnn reproduce --scale smoke",
        "0.1235",
        "0.1 to 0.2",
        "not reproduced",
        "needs a GPU",
        "Theorem 3.6",
    ):
        assert text in page
    loads = _Loads(page)
    assert len(loads.sources) == 2
    assert all(source.startswith("data:image/png;base64,iVBORw0KGgo") for source in loads.sources)
    assert set(loads.links) == {"#sam-cnn-smoke", "#icl-linear-smoke"}
    assert not loads.tags & {"script", "link", "iframe", "object", "embed"}
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page


@pytest.mark.parametrize("place", ["id", "statement", "where", "quantity", "expected", "measured", "note", "verdict"])
def test_hostile_text_is_shown_and_not_run(tmp_path: Path, place: str) -> None:
    folder = _run(tmp_path / "run", _claim(**{place: HOSTILE}), package=f'"><b onclick=x>{HOSTILE}', version=HOSTILE)
    (folder / "config.yaml").write_text(json.dumps({"command": HOSTILE, "settings": {}}))
    loads = _Loads(build_report([folder], tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "script" not in loads.tags
    assert loads.handlers == []
    assert all(source.startswith("data:") for source in loads.sources)


@pytest.mark.parametrize(
    "figure", ["figures/absent.png", "../secret.png", "/etc/hostname", "figures", "figures/out.png"]
)
def test_a_figure_that_is_missing_or_outside_the_folder_is_one_line(tmp_path: Path, figure: str) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = _run(tmp_path / "run", _claim(figures=[figure]))
    (folder / "figures" / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match=f"names the figure {figure}, which is not there"):
        build_report([folder], tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "result.json, line 1: not JSON"),
        ("[]", "result.json is not the result of a reproduction"),
        ('{"package": "x", "claims": []}', "result.json is not the result of a reproduction"),
        (json.dumps({"claims": 3}), "result.json is not the result of a reproduction"),
    ],
)
def test_what_is_no_result_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    folder = _run(tmp_path / "run")
    (folder / "result.json").write_text(content)
    with pytest.raises(InputError, match=message):
        build_report([folder], tmp_path / "index.html")


def test_a_claim_without_a_field_is_named(tmp_path: Path) -> None:
    claim = _claim()
    del claim["measured"]
    with pytest.raises(InputError, match=r"result.json: claim calls has no measured"):
        build_report([_run(tmp_path / "run", claim)], tmp_path / "index.html")


def test_unfinished_and_no_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no result.json: its reproduction did not finish"):
        build_report([tmp_path], tmp_path / "index.html")
    with pytest.raises(InputError, match="no run folder given"):
        build_report([], tmp_path / "index.html")


def test_the_command_builds_the_page(tmp_path: Path) -> None:
    folders = [str(_run(tmp_path / name, package=name)) for name in ("a b", "é")]
    command = [sys.executable, "-m", "shared_core.report"]
    out = str(tmp_path / "out" / "index.html")
    built = subprocess.run([*command, *folders, "--out", out], capture_output=True, text=True, timeout=60)
    assert (built.returncode, built.stdout, built.stderr) == (0, f"{out}\n", "")
    assert Path(out).is_file()
    refused = subprocess.run([*command, str(tmp_path), "--out", out], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
