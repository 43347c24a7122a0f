"""Ours and a peer side by side."""

import json
from pathlib import Path

import pytest
from shared_core.benchmark import alternate, compare, format_goal, goal_of, main, read_goals

BENCH = """
import pickle
from dataclasses import dataclass
from shared_core.benchmark import compare
from helper import VALUE

@dataclass
class Case:
    size: int

def run():
    pickle.loads(pickle.dumps(Case(3)))  # what worker processes do with it
    return [compare("step", "how long is a step?", "peer 1.0", [1.0, 1.0], [VALUE, 4.0], same_result=True)]
"""


def test_ratios_are_paired_and_above_one_where_ours_is_better() -> None:
    seconds = compare("wall", "?", "peer", [1.0, 2.0, 4.0], [3.0, 2.0, 20.0], same_result=True)
    assert (seconds.ours, seconds.theirs, seconds.unit) == (2.0, 3.0, "s")
    assert (seconds.ratio_low, seconds.ratio, seconds.ratio_high) == (1.0, 3.0, 5.0)
    speed = compare("rate", "?", "peer", [10.0], [5.0], same_result=False, unit="tokens/s", better="higher")
    assert (speed.ratio, speed.same_result) == (2.0, False)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [])])
def test_unpaired_measurements_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=f"got {len(ours)} and {len(theirs)}"):
        compare("wall", "?", "peer", ours, theirs, same_result=True)


def test_calls_alternate_after_the_warm_up() -> None:
    calls: list[str] = []
    ours, theirs = alternate(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3, warmup=2)
    assert calls == ["a", "b"] * 5
    assert len(ours) == len(theirs) == 3
    assert min(ours + theirs) >= 0


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "some-package" / "benchmarks").mkdir(parents=True)
    return tmp_path / "some-package"


def test_a_packages_benchmarks_are_run_printed_and_written(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "benchmarks" / "helper.py").write_text("VALUE = 2.0\n")
    (package / "benchmarks" / "bench_step.py").write_text(BENCH)
    assert main([str(package)]) == 0
    assert "3.00x" in capsys.readouterr().out
    written = json.loads((package / "benchmarks" / "results.json").read_text())
    assert written == {
        "package": "some-package",
        "results": [
            {
                "id": "step",
                "question": "how long is a step?",
                "peer": "peer 1.0",
                "unit": "s",
                "ours": 1.0,
                "theirs": 3.0,
                "ratio": 3.0,
                "ratio_low": 2.0,
                "ratio_high": 4.0,
                "same_result": True,
            }
        ],
    }


GOALS = """
[tool.collection.goals]
"step | peer*" = 4
"step" = 1
"wall-*" = 2
"""


def test_several_packages_are_one_table_with_goals(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = BENCH.replace("from helper import VALUE", "VALUE = 2.0")
    (package / "benchmarks" / "bench_step.py").write_text(bench)
    (package / "pyproject.toml").write_text(GOALS)
    broken, other = package.parent / "broken", package.parent / "other"
    (broken / "benchmarks").mkdir(parents=True)
    (broken / "benchmarks" / "bench_bad.py").write_text("def run():\n    raise ValueError\n")
    (other / "benchmarks").mkdir(parents=True)
    (other / "benchmarks" / "bench_step.py").write_text(bench)
    assert main([str(package), str(broken), str(other)]) == 1  # the others are measured all the same
    printed = capsys.readouterr()
    assert printed.out.count("3.00x") == 2
    assert "missed" in printed.out
    assert printed.err.splitlines()[-1].endswith("bench_bad.py failed")
    assert (other / "benchmarks" / "results.json").exists()


def test_a_goal_is_that_of_the_first_pattern_that_fits(package: Path) -> None:
    (package / "pyproject.toml").write_text(GOALS)
    goals = read_goals(package)
    assert read_goals(package.parent) == {}
    row = {"id": "step", "peer": "peer 1.0", "question": "?", "ratio": 3.0}
    assert (goal_of(row, goals), format_goal(row, goals)) == (4, "4x, missed")
    assert format_goal(row | {"peer": "another"}, goals) == "1x"
    assert format_goal(row | {"id": "wall-7"}, goals) == "2x"
    assert format_goal(row | {"id": "steps"}, goals) == ""


def test_no_benchmarks_no_argument_and_one_that_fails(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(package)]) == 2
    assert capsys.readouterr().err == f"{package.resolve()}/benchmarks holds no bench_*.py\n"
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (package / "benchmarks" / "bench_bad.py").write_text("def run():\n    raise ValueError\n")
    assert main([str(package)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("bench_bad.py failed")
    assert not (package / "benchmarks" / "results.json").exists()
