"""Every verb as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from leaky_relu_bias import gaussian, limits
from leaky_relu_bias import run as run_module
from leaky_relu_bias.continue_run import continue_run
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.options import DataOptions, Grid
from leaky_relu_bias.run import run_to_folder
from leaky_relu_bias.run_files import RunSettings, load_run


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """A user's table: 8 points in 60 dimensions."""
    X, y = gaussian(8, 60, seed=5)
    path = tmp_path_factory.mktemp("user") / "mine.csv"
    table = np.column_stack([X.numpy(), y.numpy()])
    header = ",".join([*(f"x{index}" for index in range(60)), "label"])
    path.write_text("\n".join([header, *(",".join(map(repr, row)) for row in table.tolist())]))
    return path


@pytest.fixture(scope="module")
def finished(csv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_to_folder(RunSettings(str(csv), m=10, steps=50_000, runs=2), folder, "cpu")
    return folder


def test_limits_of_a_users_csv_agree_with_a_long_run(run_cli, csv, finished):
    code, out, _ = run_cli("limits", csv, "--m", 10, "--json")
    predicted = json.loads(out)
    result = json.loads((finished / "result.json").read_text())
    assert code == 0
    for run in result["runs"]:
        assert run["final"]["t_times_loss"] == pytest.approx(predicted["t_times_loss"], rel=2e-3)
        assert run["final"]["sr_joint"] == pytest.approx(predicted["sr_joint"], rel=1e-2)
        assert run["final"]["normalized_margin_min"] == pytest.approx(predicted["margin"], rel=0.05)


def test_limits_and_long_runs_agree_for_users_csvs_with_and_without_support_vectors(run_cli, tmp_path):
    for seed, kind in ((7, "support-vectors 5 of 6"), (0, "equal-margins")):
        path = tmp_path / f"user-{seed}.csv"
        draw = np.random.default_rng(seed)
        rows = [f"{','.join(f'{v:.6f}' for v in row)},{label}" for row, label in zip(
            draw.normal(0.2, 1, (6, 20)), "abbaab", strict=True)]  # fmt: skip
        path.write_text("\n".join(rows))
        predicted = json.loads(run_cli("limits", path, "--m", 20, "--json")[1])
        assert predicted["kind"] == kind
        folder = tmp_path / f"run-{seed}"
        assert run_cli("run", path, "--m", 20, "--steps", 200_000, "--out", folder, "--quiet")[0] == 0
        out = run_cli("continue", folder, "--log10-t", 10_000, "--json", "--quiet")[1]
        (end,) = json.loads(out)["runs"]
        assert end["final"]["t_times_loss"] == pytest.approx(predicted["t_times_loss"], rel=1e-3)
        normalized = np.array(end["final"]["margins"]) / end["final"]["w_fro"]
        assert normalized == pytest.approx(np.array(predicted["margins"]), rel=1e-2)


def test_a_run_folder_keeps_the_output_contract(finished):
    names = {path.name for path in finished.iterdir()}
    wanted = "config.yaml metrics.jsonl result.json figures trajectory.csv margins.csv checkpoint.safetensors"
    assert set(wanted.split()) <= names
    figures = {path.stem for path in (finished / "figures").iterdir()}
    assert figures == {"stable_rank", "margins", "loss", "pattern", "gram"}
    result = json.loads((finished / "result.json").read_text())
    stored = "engine why dtype n d m gamma learning_rate relative_learning_rate sigma0 seeds ratio norm_ratio data_hash"
    assert set(stored.split()) <= set(result)
    header = (finished / "trajectory.csv").read_text().splitlines()[0].split(",")
    wanted = "t loss log10_loss t_times_loss w_fro sr_pos sr_neg sr_joint margin_min margin_max"
    wanted += " ideal_sign_fraction flips_since_last"
    assert set(wanted.split()) <= set(header)
    times = [json.loads(line)["t"] for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert times[::2] == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]
    assert {claim["id"] for claim in result["runs"][0]["claims"]} == {"C1", "C3", "C4"}
    assert yaml.safe_load((finished / "config.yaml").read_text())["settings"]["steps"] == 50_000


def test_a_killed_run_goes_on_to_the_last_bit(csv, finished, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    settings = RunSettings(str(csv), m=10, steps=50_000, runs=2)
    save, count = run_module.save_tensors, 0

    def killed(path, tensors):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        save(path, tensors)

    monkeypatch.setattr(run_module, "save_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        run_to_folder(settings, folder, "cpu")
    assert not (folder / "result.json").exists()
    monkeypatch.undo()
    run_to_folder(settings, folder, "cpu")
    assert (folder / "checkpoint.safetensors").read_bytes() == (finished / "checkpoint.safetensors").read_bytes()
    assert (folder / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert (folder / "trajectory.csv").read_text() == (finished / "trajectory.csv").read_text()


def test_a_finished_run_is_not_repeated_and_another_is_refused(run_cli, csv, finished):
    before = (finished / "result.json").stat().st_mtime_ns
    assert run_cli("run", csv, "--m", 10, "--steps", 50_000, "--runs", 2, "--out", finished, "--device", "cpu")[0] == 0
    assert (finished / "result.json").stat().st_mtime_ns == before
    code, _, err = run_cli("run", csv, "--m", 10, "--steps", 60_000, "--runs", 2, "--out", finished, "--device", "cpu")
    assert code == 2
    assert "steps was 50000, is 60000" in err


@pytest.mark.parametrize(
    ("mode", "options"),
    [("log-time", ["--log10-t", 100]), ("exact", ["--steps", 100_000]), ("normalized", ["--steps", 3000])],
)
def test_a_run_is_continued_three_ways(run_cli, finished, tmp_path, mode, options):
    code, out, _ = run_cli(
        "continue", finished, "--mode", mode, *options, "--out", tmp_path / mode, "--json", "--device", "cpu"
    )
    result = json.loads(out)
    assert code == 0
    assert result["continued_from"] == 50_000
    end = result["runs"][1]["final"]
    assert end["normalized_margin_min"] == pytest.approx(result["runs"][1]["limits"]["margin"], rel=0.05)
    assert {"log-time": end["log10_t"] == 100, "exact": end["t"] == 100_000, "normalized": end["log10_loss"] < -100}[
        mode
    ]
    assert (tmp_path / mode / "figures" / "margins.png").stat().st_size > 5000


def test_exact_continuation_equals_one_long_run(csv, finished, tmp_path):
    continue_run(finished, "exact", steps=60_000, out=tmp_path / "more", device="cpu")
    run_to_folder(RunSettings(str(csv), m=10, steps=60_000, runs=2), tmp_path / "whole", "cpu")
    more, whole = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("more", "whole"))
    assert more["runs"][0]["final"]["margins"] == pytest.approx(whole["runs"][0]["final"]["margins"], rel=1e-12)


def test_an_exact_continuation_is_continued_in_its_turn(run_cli, finished, tmp_path):
    more = tmp_path / "more"
    assert run_cli("continue", finished, "--mode", "exact", "--steps", 60_000, "--out", more, "--quiet")[0] == 0
    far = json.loads(run_cli("continue", more, "--log10-t", 20, "--json", "--quiet")[1])
    assert far["continued_from"] == 60_000
    code, _, err = run_cli("continue", more / "continue-log-time")
    assert code == 2
    assert "holds a log-time continuation" in err


KILLED = """
import os, sys
from leaky_relu_bias import run as module
from leaky_relu_bias.run_files import RunSettings
count, save = 0, module.save_tensors
def killing(path, tensors):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    save(path, tensors)
module.save_tensors = killing
module.run_to_folder(RunSettings(sys.argv[1], m=10, steps=50_000, runs=2), sys.argv[2], "cpu")
"""


def test_a_process_that_is_killed_leaves_a_folder_that_goes_on_to_the_last_bit(run_cli, csv, finished, tmp_path):
    folder = tmp_path / "kïlled"
    died = subprocess.run([sys.executable, "-c", KILLED, str(csv), str(folder), "9"], capture_output=True)
    assert died.returncode == -9
    assert not (folder / "result.json").exists()
    options = ["--m", 10, "--steps", 50_000, "--runs", 2, "--device", "cpu", "--quiet"]
    assert run_cli("run", csv, *options, "--out", folder)[0] == 0
    for name in ("checkpoint.safetensors", "metrics.jsonl", "trajectory.csv", "margins.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_data_makes_a_file_that_the_other_verbs_read(run_cli, tmp_path):
    out = tmp_path / "d.npz"
    code, text, _ = run_cli(
        "data", "near-orthogonal", "--data.n", 6, "--data.d", 40, "--data.ratio", 3, "--out", out, "--json"
    )
    assert code == 0
    assert json.loads(text)["ratio"] == pytest.approx(3)
    code, text, _ = run_cli("check", out)
    assert code == 0
    assert "covered by the theorem" in text
    code, _, err = run_cli("data", "gaussian", "--out", out)
    assert code == 2
    assert "exists already" in err


def test_check_says_what_is_not_covered(run_cli):
    code, out, _ = run_cli("check", "mnist5k", "--data.pair", "0,1")
    assert code == 0
    assert "NOT COVERED by the theorem: ratio" in out


def test_sweep_writes_a_row_a_cell_and_goes_on(run_cli, tmp_path):
    options = "--data.n 6 --data.d 40 --grid.ratios 1,4 --grid.gammas 0.0,0.5 --grid.sigma0s 1e-4 --grid.runs 2 --m 5"
    arguments = ["sweep", "near-orthogonal", *options.split(), "--steps", 2000, "--json", "--device", "cpu"]
    arguments += ["--out", tmp_path / "s"]
    code, out, _ = run_cli(*arguments)
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == 8
    leaky = [row for row in rows if row["gamma"] == 0.5 and row["ratio"] > 3]
    assert all(row["t_times_loss"] == pytest.approx(row["limit_t_times_loss"], rel=0.02) for row in leaky)
    (tmp_path / "s" / "batches" / "1.json").unlink()
    assert json.loads(run_cli(*arguments)[1]) == rows
    assert (tmp_path / "s" / "figures" / "sweep.png").stat().st_size > 5000


def test_total_width_halves_m(run_cli, csv):
    half = json.loads(run_cli("limits", csv, "--m", 10, "--json")[1])
    assert json.loads(run_cli("limits", csv, "--m", 20, "--total-width", "--json")[1]) == half


def test_options_come_from_a_file(run_cli, csv, tmp_path):
    (tmp_path / "c.yaml").write_text(f"source: {csv}\nm: 10\ngamma: 0.2\n")
    predicted = json.loads(run_cli("limits", "--config", tmp_path / "c.yaml", "--json")[1])
    X, y = gaussian(8, 60, seed=5)
    assert predicted["margin"] == pytest.approx(limits(X, y, TwoLayerNet(10, 0.2)).margin)


BAD = [
    (["run", "no.csv"], "there is no file no.csv"),
    (["run", "gaussian", "--gamma", "1"], "gamma must be in [0, 1)"),
    (["run", "gaussian", "--m", "0"], "m must be at least 1"),
    (["run", "gaussian", "--learning-rate", "-1"], "eta must be a finite number > 0"),
    (["run", "gaussian", "--learning-rate", "0"], "eta must be a finite number > 0"),
    (["run", "gaussian", "--sigma0", "-1"], "sigma0 must be"),
    (["run", "gaussian", "--steps", "0"], "steps must be at least 1"),
    (["run", "gaussian", "--runs", "0"], "runs must be at least 1"),
    (["run", "gaussian", "--engine", "fast"], "engine"),
    (["run", "gaussian", "--data.n", "0"], "n must be at least 1"),
    (["run", "gaussian", "--device", "tpu"], "device must be"),
    (["run", "digits"], "choose two classes"),
    (["check", "gaussian", "--orthogonality", "0"], "orthogonality must be > 0"),
    (["check", "orthogonal", "--data.n", "9", "--data.d", "3"], "at most d"),
    (["limits", "gaussian", "--m", "7", "--total-width"], "total width must be even"),
    (["check", "gaussian", "--data.pair", "0,1"], "pair belongs to images and files"),
    (["check", "gaussian", "--data.label", "y"], "label belongs to images and files"),
    (["continue", "nowhere"], "config.yaml is missing"),
    (["sweep", "gaussian", "--grid.ratios", "1,2"], "belong to the source near-orthogonal"),
    (["sweep", "gaussian", "--grid.gammas", "2.0"], "gamma must be in"),
    (["sweep", "gaussian", "--grid.runs", "0"], "grid.runs"),
    (["sweep", "gaussian", "--grid.gammas", "[]"], "grid.gammas must hold"),
    (["sweep", "gaussian", "--grid.relative-learning-rates", "0"], "grid.relative_learning_rates must be > 0"),
    (["sweep", "near-orthogonal", "--grid.ratios", "0.001"], "too low for 10 such points"),
    (["limits", "gaussian", "--gamma", "nan"], "--gamma"),
    (["run", "gaussian", "--seed", "-1"], "seed must be in"),
    (["data", "gaussian", "--out", "x.csv"], "must end in .npz"),
    (["reproduce", "--claims", "E99"], "no claim 'E99'"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(run_cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(*arguments)
    assert code == 2
    assert words in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not any(tmp_path.iterdir())


def test_damaged_run_folders_are_refused(finished, run_cli, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    (broken / "data.safetensors").write_bytes(b"nothing")
    code, _, err = run_cli("continue", broken)
    assert code == 2
    assert "data.safetensors is not a whole safetensors file" in err
    for name, content, words in (
        ("metrics.jsonl", b'{"step": 0, "t": 0}\n', "does not hold the record of a run"),
        ("checkpoint.safetensors", (finished / "data.safetensors").read_bytes(), "is no checkpoint of this run"),
        ("config.yaml", b"settings: {source: 3}\n", "does not hold the settings of a run"),
    ):
        damaged = tmp_path / name
        shutil.copytree(finished, damaged)
        (damaged / name).write_bytes(content)
        code, _, err = run_cli("continue", damaged)
        assert (code, words in err, "Traceback" in err) == (2, True, False), err
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    text = (other / "config.yaml").read_text()
    digest = yaml.safe_load(text)["settings"]["data_hash"]
    (other / "config.yaml").write_text(text.replace(digest, "0" * 16))
    assert "does not hold the data of this run" in run_cli("continue", other)[2]
    with pytest.raises(ValueError, match="must be beyond"):
        continue_run(finished, log10_t=2.0, out=tmp_path / "x", device="cpu")
    assert not (tmp_path / "x").exists()


def test_an_interrupted_continuation_leaves_its_run_alone(finished):
    trajectory, settings = load_run(finished, "cpu")
    assert trajectory.engine.t == 50_000
    assert settings.data == DataOptions()
    assert Grid().runs == 3
