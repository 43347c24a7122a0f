"""Verdicts, exit codes, and finished claims that are not measured again."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from shared_core import InputError, RunError
from shared_core.claims import ClaimSet, Context, Measurement, format_value

WORDS = {"statement": "It is so.", "where": "Theorem 1", "quantity": "a / b", "expected": "< 1"}


class _Package:
    """A package of three claims that counts how often each is measured."""

    def __init__(self, **found: Measurement | Exception) -> None:
        self.claims = ClaimSet("shared-core")
        self.calls: list[str] = []
        for id, measurement in found.items():
            self.claims.add(id, **WORDS)(self._measure(id, measurement))

    def _measure(self, id: str, measurement: Measurement | Exception) -> Any:
        def measure(context: Context) -> Measurement:
            self.calls.append(id)
            if isinstance(measurement, Exception):
                raise measurement
            return measurement

        return measure


YES, NO = Measurement(0.5, holds=True, uncertainty=(0.4, 0.6)), Measurement(2.0, holds=False, note="two of five seeds")
OPEN = Measurement({"a": 1}, holds=None, note="needs a GPU")


def test_each_verdict_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = _Package(yes=YES, no=NO, open=OPEN)
    assert package.claims.reproduce(scale="smoke", out=tmp_path / "run", seed=3, device="cpu") == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {key: result[key] for key in ("package", "scale", "seed", "device")} == {
        "package": "shared-core",
        "scale": "smoke",
        "seed": 3,
        "device": "cpu",
    }
    assert [row["verdict"] for row in result["claims"]] == ["reproduced", "not reproduced", "not at this scale"]
    first = result["claims"][0]
    assert {key: first[key] for key in ("id", *WORDS)} == {"id": "yes", **WORDS}
    assert (first["measured"], first["uncertainty"], first["note"], first["figures"]) == (0.5, [0.4, 0.6], "", [])
    table = capsys.readouterr().out
    assert "0.4 .. 0.6" in table
    assert "exact" in table
    assert "no: two of five seeds" in table
    assert "open: needs a GPU" in table


@pytest.mark.parametrize(
    ("found", "code"),
    [({"a": YES}, 0), ({"a": OPEN}, 0), ({"a": YES, "b": OPEN}, 0), ({"a": NO}, 1), ({"a": YES, "b": NO}, 1)],
)
def test_the_exit_code_is_1_only_where_a_claim_does_not_hold(
    tmp_path: Path, found: dict[str, Measurement], code: int
) -> None:
    assert _Package(**found).claims.reproduce(out=tmp_path, device="cpu") == code


def test_a_second_run_keeps_finished_claims_and_measures_the_rest(tmp_path: Path) -> None:
    broken = _Package(a=YES, b=RunError("logits became NaN at step 7"))
    with pytest.raises(RunError):
        broken.claims.reproduce(scale="smoke", out=tmp_path, device="cpu")
    assert not (tmp_path / "result.json").exists()
    mended = _Package(a=Measurement(9.0, holds=False), b=YES)
    assert mended.claims.reproduce(scale="smoke", out=tmp_path, device="cpu") == 0
    assert mended.calls == ["b"]
    before = json.loads((tmp_path / "result.json").read_text())
    assert mended.claims.reproduce(scale="smoke", out=tmp_path, device="cpu") == 0
    assert mended.calls == ["b"]
    assert json.loads((tmp_path / "result.json").read_text()) == before


def test_some_claims_may_be_chosen_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    package = _Package(a=YES, b=NO, c=YES)
    assert package.claims.reproduce(claims=["c", "a"], out=tmp_path / "some", device="cpu") == 0
    assert package.calls == ["a", "c"]  # in the paper's order
    with pytest.raises(InputError, match=r"--claims: there is no claim 'x'; claims: a, b, c"):
        package.claims.reproduce(claims=["a", "x"], out=tmp_path / "none")
    with pytest.raises(InputError, match="seed must be in"):
        package.claims.reproduce(seed=-1, out=tmp_path / "none")
    with pytest.raises(InputError, match="'cuda:99' is not available"):
        package.claims.reproduce(device="cuda:99", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_undecided_claim_must_say_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="claim a is undecided without a reason in its note"):
        _Package(a=Measurement(1.0, holds=None)).claims.reproduce(out=tmp_path, device="cpu")


def test_an_id_is_registered_once() -> None:
    claims = _Package(a=YES).claims
    with pytest.raises(ValueError, match="claim a is registered twice"):
        claims.add("a", **WORDS)(lambda context: YES)


def test_the_context_gives_the_scales_value_shares_work_and_saves_figures(tmp_path: Path) -> None:
    claims, made = ClaimSet("shared-core"), []

    def measure(context: Context) -> Measurement:
        context.memo("model", lambda: made.append("model"))
        name = context.save_figure("curve", Figure())
        return Measurement(context.at(smoke=1, laptop=2, paper=3), holds=True, figures=(name,))

    claims.add("a", **WORDS)(measure)
    claims.add("b", **WORDS)(measure)
    claims.reproduce(scale="paper", out=tmp_path, device="cpu")
    rows = json.loads((tmp_path / "result.json").read_text())["claims"]
    assert [row["measured"] for row in rows] == [3, 3]
    assert rows[0]["figures"] == ["figures/curve.png"]
    assert (tmp_path / "figures" / "curve.png").is_file()
    assert made == ["model"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.3333"),
        (123456.0, "1.235e+05"),
        (None, "-"),
        (True, "True"),
        ("nan", "nan"),
        ({"a": 0.12345, "b": 2}, "a 0.1235, b 2"),
        ([1.0, 2.5], "1, 2.5"),
    ],
)
def test_values_are_shown_in_four_digits(value: object, text: str) -> None:
    assert format_value(value) == text
