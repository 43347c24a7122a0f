"""Every verb as a user types it: results, files, resuming, bad input."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from parity_sgd import cli
from parity_sgd.reproduce.claim_set import decided_by_slope
from parity_sgd.scaling import loglog_slope
from shared_core.claims import Context, Measurement
from shared_core.cli import run

VERBS = [cli.train, cli.predict, cli.scaling, cli.ablate, cli.neurons, cli.fit, cli.sample, cli.reproduce]


def call(*arguments: object) -> int:
    return run("parity-sgd", VERBS, [str(argument) for argument in arguments])


@pytest.fixture
def small_train(tmp_path: Path) -> list[object]:
    return [
        "train",
        "--d",
        12,
        "--support",
        "1,5",
        "--batch-size",
        300,
        "--steps",
        20,
        "--runs",
        2,
        "--out",
        tmp_path / "run",
    ]


def test_train_writes_a_run_and_prints_it(small_train: list, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(*small_train, "--json", "--device", "cpu") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["recovered"] for row in rows] == ["1 5", "1 5"]
    folder = tmp_path / "run"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.jsonl", "result.json", "seed-0.safetensors", "figures/accuracy.png"}
    assert expected <= names
    assert yaml.safe_load((folder / "config.yaml").read_text())["settings"]["support"] == [1, 5]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in metrics} == set(range(21))

    assert call("predict", "--checkpoint", folder / "seed-0.safetensors", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["accuracy"] == row["trained_accuracy"]


def test_an_interrupted_run_goes_on_bit_identically(
    small_train: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from parity_sgd.training import Trainer

    assert call(*small_train) == 0
    advance = Trainer.advance

    def stopped(self: Trainer, steps: int) -> None:
        if self.step >= 11:
            raise KeyboardInterrupt
        advance(self, steps)

    again = [*small_train[:-1], tmp_path / "again"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stopped)
        assert call(*again) == 130
    assert not (tmp_path / "again" / "result.json").exists()
    assert call(*again) == 0
    for name in ("seed-0.safetensors", "seed-1.safetensors", "metrics.jsonl", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    capsys.readouterr()
    assert call(*again[:-1], tmp_path / "again", "--width", 32) == 2
    assert "width was 64, is 32" in capsys.readouterr().err


def test_a_finished_run_called_again_stays_as_it_is(small_train: list, tmp_path: Path) -> None:
    assert call(*small_train) == 0
    files = sorted(path for path in (tmp_path / "run").rglob("*") if path.suffix != ".png" and path.is_file())
    before = [path.read_bytes() for path in files]
    assert call(*small_train) == 0
    assert [path.read_bytes() for path in files] == before


def test_a_run_killed_within_its_first_rows_writes_them_all(
    small_train: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert call(*small_train) == 0
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole.splitlines(keepends=True)[0])
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    assert call(*small_train) == 0
    assert metrics.read_bytes() == whole
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"half")
    capsys.readouterr()
    assert call(*small_train) == 2
    assert "checkpoint.safetensors is not a safetensors file" in capsys.readouterr().err


def test_an_interrupted_sweep_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from parity_sgd import studies

    sweep = ["scaling", "--k", 2, "--ds", "16,8,12,8", "--runs", 3, "--json", "--out"]
    assert call(*sweep, tmp_path / "whole") == 0
    whole = capsys.readouterr().out
    assert [row["d"] for row in json.loads(whole)] == [8, 12, 16]
    measure = studies.per_step_batch

    def stopped(k: int, ds: list[int], **options: int) -> object:
        if ds == [16]:
            raise KeyboardInterrupt
        return measure(k, ds, **options)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "per_step_batch", stopped)
        assert call(*sweep, tmp_path / "cut") == 130
    assert sorted(path.name for path in (tmp_path / "cut" / "sizes").iterdir()) == ["12.json", "8.json"]
    capsys.readouterr()
    assert call(*sweep, tmp_path / "cut") == 0
    assert capsys.readouterr().out == whole
    assert (tmp_path / "cut" / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()


def test_predict_and_its_warning_number(capsys: pytest.CaptureFixture) -> None:
    assert call("predict", "--k", 4, "--width", 64, "--runs", 3, "--json") == 0
    captured = capsys.readouterr()
    assert [row["start"] for row in json.loads(captured.out)] == ["seed 0", "seed 1", "seed 2"]
    assert "ends perfect with probability 0.5" in captured.err


@pytest.mark.parametrize("kind", ["per-step", "end-to-end"])
def test_scaling(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / kind
    assert call("scaling", "--k", 2, "--ds", "8,16", "--kind", kind, "--runs", 4, "--out", out, "--json") == 0
    captured = capsys.readouterr()
    assert [row["d"] for row in json.loads(captured.out)] == [8, 16]
    assert "exponent in d" in captured.err
    assert (out / "table.csv").exists()
    assert (out / "figures" / "scaling.png").exists()


def test_ablate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--d", 12, "--k", 2, "--batch-size", 500, "--runs", 2, "--steps", 15, "--out", tmp_path / "a"]
    assert call("ablate", *arguments) == 0
    out = capsys.readouterr().out
    for study in ("dead-zone", "threshold", "basis", "sign", "width", "learning-rate"):
        assert study in out
    assert (tmp_path / "a" / "figures" / "ablations.png").exists()


def test_neurons_follow_the_closed_form(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert (
        call("neurons", "--d", 10, "--k", 2, "--steps", 20, "--batch-size", 20000, "--out", tmp_path / "n", "--json")
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 21
    for row in rows:
        assert row["good_feature"] == pytest.approx(1, abs=1e-6)
        assert row["bad_feature"] == pytest.approx(row["bad_closed_form"], abs=0.11)
        assert row["noise_max"] == pytest.approx(row["noise_closed_form"], abs=0.11)


def test_sample_then_fit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "data.csv"
    assert call("sample", "--out", path, "--d", 16, "--n", 4000, "--support", "2,9", "--label-noise", 0.1) == 0
    assert call("fit", path, "--k", 2, "--methods", "sign-sgd,elimination,brute-force") == 0
    out = capsys.readouterr().out
    assert "sign-sgd: label = XOR(x2, x9), confirmed" in out
    assert "elimination: no support found" in out
    assert call("fit", path, "--k", 2, "--methods", "elimination", "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["recovered"] is False


def test_reproduce_a_claim(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert (
        call("reproduce", "--scale", "smoke", "--claims", "batch-formula,rotation,width", "--out", tmp_path / "r") == 0
    )
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert [row["id"] for row in result["claims"]] == ["width", "batch-formula", "rotation"]
    assert [row["verdict"] for row in result["claims"]] == ["not at this scale", "reproduced", "reproduced"]


def test_exponents_are_undecided_at_smoke_scale_whatever_they_are(tmp_path: Path) -> None:
    found = Measurement({"k=2": 1.0}, True, (0.9, 1.1), "8 seeds")
    for scale, holds in (("smoke", None), ("laptop", True), ("paper", True)):
        context = Context(scale, 0, torch.device("cpu"), None)  # type: ignore[arg-type]
        for measured in (found, replace(found, holds=False)):
            decided = decided_by_slope(context, measured)
            assert decided.holds == (measured.holds if holds else None)
            assert decided.note.endswith("8 seeds")


def test_the_interval_of_a_slope_is_that_of_linear_regression() -> None:
    rng = np.random.default_rng(0)
    d = np.array([8, 16, 32, 64, 128, 256])
    inside = 0
    for _ in range(500):
        slope, low, high = loglog_slope(d, 3.0 * d**1.7 * np.exp(0.2 * rng.standard_normal(6)))
        assert low < slope < high
        inside += low <= 1.7 <= high
    assert inside / 500 == pytest.approx(0.95, abs=0.03)


BAD = [
    (["train"], "give --d"),
    (["train", "--d", 8], "give k"),
    (["scaling", "--ds", "8,16"], "give --k"),
    (["scaling", "--k", 2], "at least two different dimensions"),
    (["fit", "nowhere.csv"], "give --k"),
    (["sample", "--out", "data.csv", "--k", 2], "give --d"),
    (["sample", "--d", 4, "--k", 2], "give --out"),
    (["train", "--d", 8, "--k", 9], "k must be in 1..d = 1..8, got 9"),
    (["train", "--d", 8, "--k", 0], "k must be in"),
    (["train", "--d", 8, "--support", "1,1"], "twice"),
    (["train", "--d", 8, "--support", "1,8"], "0..d-1 = 0..7"),
    (["train", "--d", 8, "--k", 2, "--width", 0], "width must be at least 1"),
    (["train", "--d", 8, "--k", 2, "--batch-size", 0], "batch-size must be at least 1"),
    (["train", "--d", 8, "--k", 2, "--learning-rate", 0], "learning-rate must be positive"),
    (["train", "--d", 8, "--k", 2, "--decay", 11], "decay * learning-rate must be at most 1"),
    (["train", "--d", 8, "--k", 2, "--rho", -1], "rho must not be negative"),
    (["train", "--d", 8, "--k", 2, "--rho", 2], "rho = 2 is not below the signal"),
    (["train", "--d", 8, "--k", 2, "--label-noise", 0.4, "--rho", 0.5], "signal (1 - 2 label_noise) k! = 0.4"),
    (["train", "--d", 8, "--k", 2, "--label-noise", 0.7], "label-noise must be in [0, 0.5)"),
    (["train", "--d", 8, "--k", 2, "--runs", 0], "runs must be at least 1"),
    (["train", "--d", 8, "--k", 2, "--seed", -1], "seed must be in"),
    (["train", "--d", 8, "--k", 2, "--log-every", 0], "log-every must be at least 1"),
    (["train", "--d", 8, "--k", 2, "--device", "tpu"], "device must be auto"),
    (["train", "--d", "eight", "--k", 2], "--d"),
    (["train", "--d", 1000000, "--k", 80, "--width", 8], "range of a float"),
    (["train", "--d", 20, "--k", 15], "width * d = 1073741824 * 20 numbers are beyond 2^31"),
    (["train", "--d", 20, "--k", 2, "--batch-size", 10**21], "batch-size must be at most 1e+12, got 1e+21"),
    (["sample", "--out", "data.csv", "--d", 4, "--n", 10**14, "--k", 2], "numbers are beyond 2^31"),
    (["predict", "--k", 2, "--width", 0], "width must be at least 1"),
    (["predict", "--k", 12, "--width", 8], "k must be at most 10"),
    (["scaling", "--k", 6, "--ds", "100,200"], "at most 1e+12 can be drawn"),
    (["scaling", "--k", 200, "--ds", "300,400"], "range of a float32"),
    (["train", "--d", 300, "--k", 200, "--width", 8], "range of a float32"),
    (["scaling", "--k", 2, "--ds", "8,16", "--width", 0], "width must be at least 1"),
    (["scaling", "--k", 2, "--ds", "8,16", "--width", -1], "width must be at least 1"),
    (["scaling", "--k", 2, "--ds", "8,16", "--learning-rate", 0], "learning-rate must be positive"),
    (["neurons", "--d", 8, "--k", 2, "--width", 1], "this start has no bad neuron"),
    (["predict", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors is not a file"),
    (["predict", "--checkpoint", __file__], "is not a safetensors file"),
    (["scaling", "--k", 2, "--ds", "8"], "at least two different dimensions"),
    (["scaling", "--k", 3, "--ds", "2,8"], "none below k = 3"),
    (["scaling", "--k", 2, "--ds", "8,16", "--runs", 1], "runs must be at least 2"),
    (["scaling", "--k", 2, "--ds", "8,16", "--kind", "other"], "--kind"),
    (["ablate", "--d", 8, "--k", 2, "--studies", "colour"], "there is no study 'colour'"),
    (["neurons", "--d", 8], "give k"),
    (["fit", "nowhere.csv", "--k", 2], "nowhere.csv does not exist"),
    (["fit", __file__, "--k", 2], "must end in .csv, .tsv or .parquet"),
    (["fit", "nowhere.csv", "--k", 2, "--methods", "magic"], "--methods"),
    (["sample", "--out", "data.txt", "--d", 4, "--n", 5, "--k", 2], "must end in .csv"),
    (["sample", "--out", "data.csv", "--d", 4, "--n", 0, "--k", 2], "at least 1"),
    (["reproduce", "--claims", "all-of-it"], "there is no claim 'all-of-it'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(map(str, arguments)) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("parity-sgd")]
    assert len(lines) == 1, captured.err
    assert message in lines[0].replace("'--", "--")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not list(tmp_path.rglob("*.*"))


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from parity_sgd.cli import main; sys.argv = ['parity-sgd', '--help']; main(); "
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fit" in done.stdout


def test_the_public_api_resolves() -> None:
    import parity_sgd

    for name in parity_sgd.__all__:
        assert getattr(parity_sgd, name) is not None
    with pytest.raises(AttributeError):
        _ = parity_sgd.nothing
