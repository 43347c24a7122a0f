"""`NAME reproduce` keeps the contract of the run folder and of result.json, in every package."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

RESULT = {"package": str, "version": str, "scale": str, "seed": int, "device": str, "seconds": float, "claims": list}
CLAIM = {"id", "statement", "where", "quantity", "expected", "measured", "uncertainty", "verdict", "note"}
VERDICTS = {"reproduced", "not reproduced", "not at this scale"}


@pytest.fixture
def run_folder(package: Any, smoke: Callable[[Any], Path]) -> Path:
    return smoke(package) / "smoke é 1"


@pytest.fixture
def result(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "result.json").read_text(encoding="utf-8"))


def test_result_json_has_every_field(package: Any, result: dict[str, Any]) -> None:
    assert {name: type(result[name]) for name in RESULT} == RESULT
    expected = {"package": package.name, "version": package.project["version"], "scale": "smoke", "seed": 0}
    assert {name: result[name] for name in expected} == expected
    assert result["device"] == "cpu"
    assert result["seconds"] < 60  # 30 on an idle machine


def test_every_claim_has_every_field(result: dict[str, Any]) -> None:
    claims = result["claims"]
    assert claims
    assert len({claim["id"] for claim in claims}) == len(claims)
    for claim in claims:
        assert set(claim) >= CLAIM, f"{claim.get('id')} lacks {CLAIM - set(claim)}"
        assert claim["verdict"] in VERDICTS
        assert all(claim[name].strip() for name in ("id", "statement", "where", "quantity", "expected"))
        assert claim["measured"] is not None
        assert claim["note"] or claim["verdict"] == "reproduced", f"{claim['id']} does not say why"
        if claim["uncertainty"] is not None:
            low, high = map(float, claim["uncertainty"])
            assert low <= high, claim["id"]


def test_the_exit_code_follows_the_verdicts(package: Any, smoke: Callable[[Any], Path], result: dict[str, Any]) -> None:
    answer = json.loads((smoke(package) / "reproduce.json").read_text())
    assert answer["code"] == int(any(claim["verdict"] == "not reproduced" for claim in result["claims"]))
    assert all(claim["id"] in answer["out"] for claim in result["claims"])


def test_every_figure_is_a_picture_in_the_folder(run_folder: Path, result: dict[str, Any]) -> None:
    figures = [figure for claim in result["claims"] for figure in claim.get("figures", [])]
    assert figures, "no claim has a figure"
    for figure in figures:
        assert (run_folder / figure).read_bytes().startswith(b"\x89PNG"), figure
        assert figure.startswith("figures/")


def test_config_yaml_repeats_the_run(package: Any, run_folder: Path) -> None:
    config = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
    assert (config["package"], config["version"]) == (package.name, package.project["version"])
    assert config["command"].startswith(f"{package.name} reproduce --scale smoke --out ")
    assert config["settings"]["seed"] == 0
    assert config["versions"]["torch"]


def test_nothing_half_written_or_executable_is_left(run_folder: Path) -> None:
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files if path.name != ".lock"}
    assert not suffixes & {".part", ".tmp", ".pkl", ".pickle", ".pt", ".pth", ".bin", ".py"}
    assert all(path.stat().st_size for path in files if path.name != ".lock")


def test_a_second_run_keeps_the_result_and_other_settings_are_refused(
    package: Any, run_folder: Path, result: dict[str, Any], calls: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run_folder, again)
    base = ["reproduce", "--scale", "smoke", "--out", str(again)]
    same, seed, scale, locked, intact = calls(
        package,
        base,
        [*base, "--seed", "1"],
        ["reproduce", "--scale", "laptop", "--out", str(again)],
        ["LOCK", str(again), *base],
        [*base, "--quiet"],
    )
    assert same["code"] in (0, 1), same["err"]
    assert json.loads((again / "result.json").read_text(encoding="utf-8")) == result
    assert "seed was 0, is 1" in _one_line(seed)
    assert "scale was smoke, is laptop" in _one_line(scale)
    assert "another run is writing into" in _one_line(locked)
    assert (intact["code"], intact["err"]) == (same["code"], "")
    assert intact["out"] == same["out"]


def test_bad_input_is_one_line_and_leaves_nothing(
    package: Any, calls: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    new = tmp_path / "new"
    table = {
        ("--device", "cuda"): "device 'cuda' is not available here; available: cpu",
        ("--device", "gpu"): "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'",
        ("--scale", "huge"): "--scale: expected one of 'smoke', 'laptop', 'paper'. got huge",
        ("--claims", "no-such-claim"): "there is no claim 'no-such-claim'",
        ("--seed", "-1"): "seed must be in 0..2**32-1, got -1",
        ("--seed", "one"): "--seed: expected int. got one",
        ("--config", str(tmp_path / "no.yaml")): "no.yaml: No such file or directory",
        ("--out", str(tmp_path / "file")): "is a file; give a folder",
        ("--out", str(tmp_path / "thesis")): "is not empty and holds no run (it has chapter.tex)",
        ("--no-such-option", "1"): "--no-such-option",
    }
    base = ["reproduce", "--scale", "smoke", "--out", str(new)]
    answers = calls(package, *([*base, *options] for options in table))
    for (options, words), answer in zip(table.items(), answers, strict=True):
        assert words in _one_line(answer), options
    assert not new.exists()
    assert (tmp_path / "file").read_text() == "mine"
    assert [item.name for item in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def _one_line(answer: dict[str, Any]) -> str:
    assert (answer["code"], answer["out"]) == (2, ""), answer
    assert answer["err"].count("\n") == 1, answer["err"]
    return str(answer["err"])
