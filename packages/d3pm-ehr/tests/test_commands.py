"""Every verb as a user types it, on the MIMIC-III layout; bad input; kill and resume."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from d3pm_ehr.cli import main
from d3pm_ehr.formats.storage import load_cohort
from safetensors.torch import load_file

SMALL = ["--training.steps", "30", "--training.checkpoint-every", "10", "--training.batch-size", "32",
         "--network.width", "16", "--diffusion.num-steps", "6", "--quiet"]  # fmt: skip


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["d3pm-ehr", *map(str, arguments)])
    code = main()
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in MIMIC-III's layout, with identifiers that are easy to find again."""
    from d3pm_ehr import embedded_cohort

    cohort = embedded_cohort(500, seed=6, codes=30, columns=False).without_empty()
    lines = ["ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE"]
    for row in range(len(cohort)):
        codes = cohort.codes[row].indices
        lines += [
            f"{len(lines)},{77000000 + row},{88000000 + row},{i + 1},{cohort.vocabulary.codes[c][7:]}"
            for i, c in enumerate(codes)
        ]
    path = tmp_path_factory.mktemp("source") / "DIAGNOSES_ICD.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def project(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an imported cohort and a trained model."""
    folder = tmp_path_factory.mktemp("project")
    old = sys.argv
    for arguments in (
        ["import", source, "--out", folder / "data", "--quiet"],
        ["train", folder / "data", "--out", folder / "run", *SMALL],
    ):  # fmt: skip
        sys.argv = ["d3pm-ehr", *map(str, arguments)]
        assert main() == 0
    sys.argv = old
    return folder


def test_import_train_sample_evaluate(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = call(monkeypatch, capsys, "sample", project / "run", "--n", "120", "--out", tmp_path / "s.csv")
    assert (code, err) == (0, "")
    assert "120 records" in out
    text = (tmp_path / "s.csv").read_text()
    assert "7700" not in text  # no identifier of a training record
    assert "8800" not in text
    assert text.startswith('"patient","code"\n"synthetic-0000001"')
    code, out, err = call(
        monkeypatch, capsys, "evaluate", project / "data", f"mine={tmp_path / 's.csv'}", "--out", tmp_path / "e",
        "--small", "100", "--label", "heart=414|428", "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert {"mine", "held-out real", "independent Bernoulli"} <= set(result["fidelity"])
    assert "heart" in result["utility"]["mine"]
    page = (tmp_path / "e" / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 5
    assert "Undefined" not in page
    assert len(list((tmp_path / "e" / "figures").glob("*.png"))) == 5
    same = call(
        monkeypatch, capsys, "evaluate", project / "data", f"mine={tmp_path / 's.csv'}", "--out", tmp_path / "e",
        "--small", "99", "--quiet",
    )  # fmt: skip
    assert same[0] == 2
    assert "holds another run" in same[2]


def test_weights_that_may_know_records_by_heart_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from d3pm_ehr.verbs.models import _warn_of_memory

    rows = [
        {"step": s, "held_out_bound": b, "held_out_ce": c} for s, b, c in ((1, 9.0, 4.0), (2, 7.0, 3.0), (3, 6.0, 3.3))
    ]
    _warn_of_memory(rows, "ce", 70)
    assert not caplog.text
    _warn_of_memory(rows, "bound", 70)
    assert "lowest at step 2 and 10 % higher at step 3, whose weights are kept" in caplog.text
    _warn_of_memory(rows[::-1], "bound", 70)
    assert "the held-out bound only rose: 70 records are too few" in caplog.text


def test_conditions_from_the_command_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = project / "run"
    base = ["sample", run, "--n", "50", "--condition", "250,!401"]
    assert call(monkeypatch, capsys, *base, "--out", tmp_path / "own.csv")[0] == 0
    code, _, err = call(monkeypatch, capsys, *base, "--out", tmp_path / "c.csv", "--guidance.method", "classifier")
    assert (code, "no classifier was trained" in err, (tmp_path / "c.csv").exists()) == (2, True, False)
    assert call(monkeypatch, capsys, "guide", run, project / "data", "250", "--steps", "20", "--quiet")[0] == 0
    classifier = ["sample", run, "--n", "20", "--condition", "250", "--guidance.method", "classifier"]
    assert call(monkeypatch, capsys, *classifier, "--out", tmp_path / "c.csv")[0] == 0
    fixed = ["sample", run, "--n", "20", "--given", "250=1,401=0", "--drop-empty", "--format", "wide"]
    assert call(monkeypatch, capsys, *fixed, "--out", tmp_path / "w.csv")[0] == 0
    header, *rows = (tmp_path / "w.csv").read_text().replace('"', "").splitlines()
    place = header.split(",").index("ICD9CM:250")
    assert [row.split(",")[place] for row in rows] == ["1"] * 20
    sweep = ["sweep", run, project / "data", "250", "--strengths", "1,0.1", "--n", "60", "--quiet"]
    code, out, err = call(monkeypatch, capsys, *sweep, "--out", tmp_path / "sweep")
    assert (code, err) == (0, "")
    assert "lambda 0.1" in out
    assert (tmp_path / "sweep" / "figures" / "guidance.png").exists()


def test_json_instead_of_what_a_reader_sees(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def answer(*arguments: object) -> dict[str, Any]:
        code, out, err = call(monkeypatch, capsys, *arguments, "--json", "--quiet")
        assert (code, err) == (0, "")
        return json.loads(out)

    made = answer("import", "embedded", "--n", 300, "--max-codes", 30, "--out", tmp_path / "d")
    assert sum(made["records"].values()) == 300
    assert made["columns"] == {"age": 10, "sex": 2, "died": 2}
    found = answer("info", tmp_path / "d")
    assert {name: found[name] for name in made} == made
    assert len(found["most_common_codes"]) == 10
    assert answer("info", project / "run")["config"]["diffusion"]["num_steps"] == 6
    draw = ["--n", 40, "--out"]
    drawn = answer("sample", project / "run", *draw, tmp_path / "s.csv", "--num-steps", 3, "--batch-size", 20)
    assert drawn["records"] == 40
    assert answer("baseline", tmp_path / "d", "--name", "bernoulli", *draw, tmp_path / "b")["baseline"] == "bernoulli"
    judged = answer("evaluate", project / "data", tmp_path / "s.csv", "--sections", "fidelity", "--n", 30,
                    "--out", tmp_path / "e")  # fmt: skip
    assert judged["records"]["s"] == 30
    assert answer("guide", project / "run", project / "data", "401", "--steps", 2)["steps"] == 2


@pytest.mark.parametrize("format", ["meds", "mimic3", "cohort"])
def test_other_formats(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, format: str
) -> None:
    out = tmp_path / ("s.csv" if format == "mimic3" else "s")
    code, _, err = call(monkeypatch, capsys, "sample", project / "run", "--n", "30", "--out", out, "--format", format)
    assert (code, err) == (0, "")
    if format == "cohort":
        assert len(load_cohort(out)) == 30
    else:
        again = ["import", out, "--out", tmp_path / "again", "--min-records", "0", "--empty", "keep", "--quiet"]
        assert call(monkeypatch, capsys, *again)[0] == 0


def test_baseline_info_and_the_embedded_cohort(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, capsys, "import", "embedded", "--n", "300", "--out", tmp_path / "d", "--quiet")[0] == 0
    made = ["baseline", tmp_path / "d", "--name", "bernoulli", "--n", "40", "--out", tmp_path / "b.parquet"]
    assert call(monkeypatch, capsys, *made)[0] == 0
    code, out, _ = call(monkeypatch, capsys, "info", tmp_path / "d")
    assert code == 0
    assert "age (10), sex (2), died (2)" in out
    code, out, _ = call(monkeypatch, capsys, "info", project / "run")
    assert code == 0
    assert "diffusion.kernel" in out


def test_bad_input_is_one_line_and_leaves_nothing(
    project: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, run, new = project / "data", project / "run", tmp_path / "new"
    (tmp_path / "mine.csv").write_text("x\n1\n")
    table: list[tuple[list[Any], str]] = [
        (["import", tmp_path / "none.csv", "--out", new], "none.csv: no such file"),
        (["import", source, "--out", data], "is there already"),
        (["import", source, "--out", new, "--format", "omop"], "there is no column 'person_id'"),
        (["import", source, "--out", new, "--truncate", "icd4"], "--truncate must be icd3, none or a number"),
        (["import", source, "--out", new, "--min-records", "99999"], "no code is in 99999 records"),
        (["import", source, "--out", new, "--tuning", "0.9", "--held-out", "0.3"], "sum to less than 1"),
        (["import", tmp_path / "mine.csv", "--out", new], "cannot tell the format"),
        (["train", tmp_path, "--out", new], "is no cohort"),
        (["train", data, "--out", new, "--diffusion.num-steps", "0"], "num_steps must be at least 1, got 0"),
        (["train", data, "--out", new, "--diffusion.posterior", "joint"], "would sample a wrong law"),
        (
            [
                "train",
                data,
                "--out",
                new,
                "--diffusion.posterior",
                "joint",
                "--training.loss",
                "vlb",
                "--diffusion.evidence",
            ],
            "evidence is for posterior mixture",
        ),
        (["train", data, "--out", new, "--network.backbone", "gru"], "expected one of 'mlp', 'transformer', 'linear'"),
        (["train", data, "--out", run, "--training.steps", "31"], "holds another run"),
        (["sample", run, "--n", "0", "--out", new], "n must be at least 1, got 0"),
        (["sample", run, "--out", tmp_path / "mine.csv"], "is there already"),
        (["sample", data, "--out", new], "holds no trained model"),
        (
            ["sample", run, "--out", new, "--condition", "999"],
            "code '999' is not in the vocabulary of 30 codes; nearest",
        ),
        (["sample", run, "--out", new, "--condition", "250,!250"], "contradicts itself"),
        (["sample", run, "--out", new, "--given", "250"], "expected CODE=0, CODE=1 or COLUMN=LEVEL"),
        (["sample", run, "--out", new, "--given", "250=1,250=0"], "--given contradicts itself about 250"),
        (["sample", run, "--out", new, "--num-steps", "7"], "num_steps must be in 1..6"),
        (["sample", run, "--out", new, "--transition-times"], "need kernel absorbing"),
        (["sample", run, "--out", new, "--format", "omop"], "needs a file name ending in"),
        (["sample", run, "--out", new, "--device", "cuda"], "device 'cuda' is not available here"),
        (["guide", run, data, "401|!"], "not in the vocabulary"),
        (["baseline", data, "--name", "vae", "--out", new], "expected one of"),
        (["evaluate", data, tmp_path / "none.csv", "--out", new], "none.csv: no such file"),
        (["evaluate", data, run, "--out", new], "is neither a cohort nor a MEDS data set"),
        (["info", tmp_path], "is no cohort"),
        (["import", tmp_path, "--out", new], "is a folder without data/*.parquet"),
        (["import", "embedded", "--n", "0", "--out", new], "n and codes must be at least 1, got 0"),
        (
            ["import", "embedded", "--truncate", "2", "--out", new],
            "--truncate is for format mimic3, mimic4, meds, long",
        ),
        (["import", source, "--icd", "10", "--out", new], "--icd is for format mimic4, long, not for mimic3"),
        (
            ["sample", run, "--out", new, "--condition", "250", "--given", "250=0"],
            "contradict each other about ICD9CM:250",
        ),
        (["evaluate", data, "", "--out", new], "so there is nothing to evaluate"),
        (["evaluate", data, data, "--n", "0", "--out", new / "e"], "n and small must be at least 1"),
    ]
    for arguments, words in table:
        code, out, err = call(monkeypatch, capsys, *arguments, "--quiet")
        assert (code, out) == (2, ""), (arguments, out, err)
        assert words in err, err
        assert err.count("\n") == 1
        assert not new.exists(), arguments
    assert (tmp_path / "mine.csv").read_text() == "x\n1\n"


def test_a_stop_right_after_a_checkpoint_loses_no_line_of_the_metrics(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from d3pm_ehr.verbs import models

    def save_and_stop(*arguments: Any) -> None:
        save_state(*arguments)
        raise KeyboardInterrupt

    train, save_state = ["train", project / "data", "--out", tmp_path / "run", *SMALL], models.save_state
    for _ in range(2):
        monkeypatch.setattr(models, "save_state", save_and_stop)
        assert call(monkeypatch, capsys, *train)[0] == 130
    monkeypatch.setattr(models, "save_state", save_state)
    assert call(monkeypatch, capsys, *train)[0] == 0
    whole, stopped = ((folder / "metrics.jsonl").read_text() for folder in (project / "run", tmp_path / "run"))
    assert stopped == whole


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "d3pm_ehr", "train", str(project / "data")]
    options = ["--training.steps", "400", "--training.checkpoint-every", "20", *SMALL[4:]]
    run = subprocess.Popen([*command, "--out", str(tmp_path / "killed"), *options], env=os.environ)
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    for _ in range(1200):
        if checkpoint.exists() or run.poll() is not None:
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert checkpoint.exists()
    for name in ("killed", "whole"):
        assert call(monkeypatch, capsys, *command[3:], "--out", tmp_path / name, *options)[0] == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(bool((first[name] == second[name]).all()) for name in second)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "whole")]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_two_processes_train_the_same_model(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--training.steps", "10", "--training.checkpoint-every", "5", *SMALL[4:]]
    train = ["-m", "d3pm_ehr", "train", str(project / "data")]
    assert call(monkeypatch, capsys, *train[2:], "--out", tmp_path / "one", *options)[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, *train, "--out", str(tmp_path / "two"), *options],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    assert [run.wait(timeout=200) for run in both] == [0, 0]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in first:
        assert torch.allclose(first[name], second[name], atol=1e-5), name
