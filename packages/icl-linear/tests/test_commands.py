import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from icl_linear import cli, estimate_problem, fit_scaling, make_problem, read_tasks, run_sgd
from icl_linear.attention_risk import risk
from safetensors.torch import load_file, save_file
from shared_core.cli import run

STATES = str(Path(__file__).parent / "data" / "us_states_growth.csv")
VERBS = [cli.risk, cli.curve, cli.bound, cli.plan, cli.train, cli.compare, cli.estimate, cli.reproduce]


def command(*arguments):
    return run("icl-linear", VERBS, [*map(str, arguments), "--quiet"])


def rows(capsys, *arguments):
    assert command(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_risk_prints_the_exact_values_and_writes_its_folder(capsys, tmp_path):
    result = rows(capsys, "risk", "--spectrum", "iso", "--context", "64,256", "--test", "4,64", "--out", tmp_path / "r")
    problem = make_problem("iso", 32)
    for row in result["rows"]:
        assert row["risk"] == pytest.approx(float(risk(problem, problem.gamma_star(row["context_N"]), row["test_M"])))
    assert any("worse than predicting 0" in note for note in result["notes"])
    assert {"config.yaml", "result.json", "rows.csv", "figures"} <= {item.name for item in (tmp_path / "r").iterdir()}
    assert command("risk", "--context", "16") == 0
    assert "best attention" in capsys.readouterr().out


def test_risk_reads_given_spectra_and_gammas(capsys, tmp_path):
    dense = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    (tmp_path / "H.csv").write_text("2,0.5\n0.5,1\n")
    (tmp_path / "lam.txt").write_text("# eigenvalues\n2\n1\n")
    (tmp_path / "g.csv").write_text("0.5,0.1\n0,0.2\n")
    save_file({"gamma": torch.tensor([[0.5, 0.1], [0.0, 0.2]])}, tmp_path / "g.safetensors")
    problem = make_problem(str(tmp_path / "H.csv"))
    assert torch.allclose(problem.covariance, dense.double())
    expected = float(risk(problem, torch.tensor([[0.5, 0.1], [0.0, 0.2]]), 5))
    for gamma in ("g.csv", "g.safetensors"):
        found = rows(capsys, "risk", "--spectrum", tmp_path / "H.csv", "--test", "5", "--gamma", tmp_path / gamma)
        assert found["rows"][0]["risk"] == pytest.approx(expected, rel=1e-6)
    assert rows(capsys, "risk", "--spectrum", tmp_path / "lam.txt", "--context", "5")["d"] == 2


def test_curve_puts_sampled_runs_and_other_lengths_beside_the_exact_values(capsys, tmp_path):
    result = rows(capsys, "curve", "--d", 6, "--tasks", "20,100", "--runs", 300, "--test", "5", "--learning-rate", 0.05,
                  "--out", tmp_path / "c")  # fmt: skip
    for row in result["rows"]:
        assert abs(row["sampled"] - row["excess"]) < 4.5 * row["sampled_error"]
        assert row["risk_M5"] > 1
    assert (tmp_path / "c" / "figures" / "curve.png").stat().st_size > 5000


def test_bound_plan_and_compare(capsys, tmp_path):
    table = rows(capsys, "bound", "--d", 8, "--tasks", "100,1000", "--out", tmp_path / "b")["rows"]
    assert all(0.1 < row["exact/bound"] < 2 for row in table)
    plan = rows(capsys, "plan", "--d", 64, "--target", 0.3, "--out", tmp_path / "p")
    assert plan["tasks_needed"] < plan["parameters"] / 4
    assert plan["excess_reached"] <= plan["target_excess"] == pytest.approx(0.3 * plan["excess_untrained"])
    absolute = rows(capsys, "plan", "--d", 8, "--target", 0.3, "--no-relative")
    assert absolute["target_excess"] == 0.3
    table = rows(capsys, "compare", "--context", "16,64", "--test", "16,64", "--tasks", "100", "--out", tmp_path / "m")
    assert all(row["ratio"] >= 0.99 for row in table["rows"])
    assert {item.name for item in (tmp_path / "m" / "figures").iterdir()} == {"ratio.png", "tasks.png"}


def test_a_second_run_into_the_same_folder_is_refused_if_it_differs(capsys, tmp_path):
    assert command("plan", "--d", 4, "--target", 0.5, "--out", tmp_path / "p") == 0
    assert command("plan", "--d", 4, "--target", 0.5, "--out", tmp_path / "p") == 0
    assert command("plan", "--d", 5, "--target", 0.5, "--out", tmp_path / "p") == 2
    assert "d was 4, is 5" in capsys.readouterr().err


class _KilledError(Exception):
    pass


def _die():
    raise _KilledError


def _train(tmp_path, name, *extra):
    return command("train", "--out", tmp_path / name, "--d", 4, "--context", 8, "--steps", 40, "--checkpoint-every", 10,
                   "--test", "4,8", "--prompts", 200, *extra)  # fmt: skip


@pytest.mark.parametrize(
    "extra",
    [
        ("--model", "gamma", "--runs", 3),
        ("--model", "gamma", "--pool", 5, "--batch-size", 2),
        ("--model", "full", "--optimizer", "adam", "--design", "sphere"),
        ("--model", "gpt2", "--layers", 1, "--width", 8, "--heads", 2, "--batch-size", 8),
    ],
)
def test_a_killed_training_goes_on_to_the_same_bits(extra, tmp_path, monkeypatch, capsys):
    assert _train(tmp_path, "whole", *extra) == 0
    from shared_core.logging import MetricsLog

    write, calls = MetricsLog.write, []

    def dies(self, step, **values):
        calls.append(step)
        if len(calls) == 3:
            raise _KilledError
        write(self, step, **values)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", dies)
        assert _train(tmp_path, "killed", *extra) == 1
    assert not (tmp_path / "killed" / "result.json").exists()
    assert _train(tmp_path, "killed", *extra) == 0
    for name in ("metrics.jsonl", "result.json", "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    capsys.readouterr()
    found = rows(capsys, "compare", "--run", tmp_path / "killed", "--prompts", 200)
    assert [row["test_M"] for row in found["rows"]] == [4, 8]


def test_a_killed_gamma_keeps_its_bits_under_a_dense_covariance(tmp_path, monkeypatch):
    (tmp_path / "H.csv").write_text("2,0.5\n0.5,1\n")
    extra = ("--spectrum", tmp_path / "H.csv", "--runs", 2)
    assert _train(tmp_path, "whole", *extra) == 0
    checkpoint = "icl_linear.verbs.pretraining.run_sgd"
    with monkeypatch.context() as patch:
        calls = []
        patch.setattr(checkpoint, lambda *a: calls.append(1) or (run_sgd(*a) if len(calls) < 3 else _die()))
        assert _train(tmp_path, "killed", *extra) == 1
    assert _train(tmp_path, "killed", *extra) == 0
    for name in ("metrics.jsonl", "result.json", "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_two_processes_train_what_one_does(tmp_path, capsys):
    """A batch of 7 is shared unevenly; `all` judges every prefix."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = "train --model full --loss all --d 3 --context 5 --batch-size 7 --steps 30 --checkpoint-every 10"
    options += " --learning-rate 0.01 --prompts 50"
    alone = rows(capsys, *options.split(), "--device", "cpu", "--out", tmp_path / "one")
    launcher = (
        f"-m torch.distributed.run --nproc-per-node 2 --master-addr localhost --master-port {port} --no-python --"
    )
    program = Path(sys.executable).parent / "icl-linear"
    done = subprocess.run(
        [sys.executable, *launcher.split(), program, *options.split(), "--json", "--device", "cpu",
         "--out", tmp_path / "two"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    both = json.loads(done.stdout)  # one answer, from the main process
    assert both["rows"][0]["model"] == pytest.approx(alone["rows"][0]["model"], rel=1e-4)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-5), name
    losses = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("one", "two")]
    assert [row["step"] for row in losses[1]] == [10, 20, 30]
    for a, b in zip(*losses, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_the_trained_gamma_is_a_gamma_for_risk(tmp_path, capsys):
    assert _train(tmp_path, "g", "--runs", 2) == 0
    capsys.readouterr()
    gamma = load_file(tmp_path / "g" / "model.safetensors")["gamma"]
    assert gamma.shape == (2, 4, 4)
    found = rows(capsys, "risk", "--d", 4, "--test", "8", "--gamma", tmp_path / "g" / "model.safetensors")
    each = [float(risk(make_problem("power:2", 4), one, 8)) for one in gamma]
    assert found["rows"][0]["risk"] == pytest.approx(sum(each) / 2)  # not the risk of the mean Gamma
    assert found["rows"][0]["risk"] < found["risk_of_zero"]


def test_the_estimate_finds_the_constants_of_gaussian_tasks(task_csv):
    table = read_tasks(task_csv)
    assert (table.features, len(table.y), len(table.y[0])) == (["a", "b"], 150, 12)
    fit = estimate_problem(fit_scaling(table, standardize=False).apply(table), bootstrap=50)
    assert fit.psi_interval[0] < 0.8 < fit.psi_interval[1]
    assert fit.sigma_interval[0] < 0.5 < fit.sigma_interval[1]
    assert fit.problem.eigenvalues.tolist() == pytest.approx([1.0, 0.3], rel=0.1)


def test_the_held_out_errors_of_gaussian_tasks_are_those_of_the_theory(task_csv, capsys):
    found = rows(capsys, "estimate", task_csv, "--context", 6, "--no-standardize", "--splits", 3)
    by_name = {row["name"]: row for row in found["rows"]}
    for row in by_name.values():
        if row["theory"] is not None:
            assert abs(row["error"] - row["theory"]) < 4 * row["standard_error"]
    ridge, zero = by_name["ridge for each task"], by_name["zero"]
    assert ridge["error"] < by_name["attention, fitted optimum"]["error"] < zero["error"]


def test_estimate_on_real_tasks(capsys, tmp_path):
    """Growth of 48 US states, 1971-1986: production on public and private capital, employment, unemployment."""
    found = rows(capsys, "estimate", STATES, "--task", "state", "--target", "gsp", "--out", tmp_path / "e")
    by_name = {row["name"]: row["error"] for row in found["rows"]}
    assert (found["tasks"], found["features"], found["context_N"]) == (48, 4, 8)
    assert by_name["ridge for each task"] < by_name["attention, fitted optimum"] < by_name["zero"]
    assert (tmp_path / "e" / "figures" / "estimate.png").exists()
    constants = ("--spectrum", tmp_path / "e" / "covariance.csv", "--psi", found["psi"], "--sigma", found["sigma"])
    plan = rows(capsys, "plan", *constants, "--context", 8, "--target", 0.1)
    assert plan["tasks_needed"] == found["tasks_needed"]


def test_an_estimate_whose_plan_is_out_of_reach_keeps_the_rest(capsys, task_csv):
    found = rows(capsys, "estimate", task_csv, "--context", 6, "--splits", 1, "--most", 4)
    assert found["tasks_needed"] is None
    assert any("needs more than 4 steps" in note for note in found["notes"])


BAD = [
    (("risk", "--context", 0, "--test", 4), "--context must be at least 1 context example, got 0"),
    (("risk", "--test", "0,4"), "--test must be at least 1"),
    (("risk", "--psi", 0), "psi must be a finite number above 0"),
    (("risk", "--sigma", -1), "sigma must be"),
    (("risk", "--d", 0), "d must be"),
    (("risk", "--trace", 0), "trace must be"),
    (("risk", "--draws", 1), "draws must be"),
    (("risk", "--spectrum", "flat"), "spectrum must be iso, power:A"),
    (("risk", "--spectrum", "missing.csv"), "missing.csv: No such file"),
    (("risk", "--spectrum", "{tmp}/eigenvalues.txt"), "entry 2 is -1"),
    (("risk", "--spectrum", "{tmp}/zero.csv"), "entry 1 is 0"),
    (("risk", "--spectrum", "{tmp}/words.csv"), "must hold numbers"),
    (("risk", "--spectrum", "{tmp}/junk.npy"), "junk.npy is no .npy or .npz file of plain arrays (objects"),
    (("risk", "--d", 3, "--gamma", "{tmp}/negative.csv"), "must hold a Gamma of 3 x 3, got 2 x 2"),
    (("risk", "--device", "tpu"), "device must be"),
    (("curve", "--learning-rate", 9), "the largest stable step here is"),
    (("curve", "--tasks", 1), "--tasks must be a whole number of at least 2"),
    (("curve", "--schedule", "cosine"), "schedule must be"),
    (("curve", "--batch-size", 0), "batch_size must be"),
    (("curve", "--context", 0), "--context must be at least 1"),
    (("bound", "--context", 0), "at least 1"),
    (("bound", "--learning-rate", 50), "largest stable step"),
    (("bound", "--sigma", 0, "--d", 4), "sigma must be"),
    (("plan", "--target", 2), "--target must be between 0 and 1"),
    (("plan", "--target", -1, "--no-relative"), "target must be"),
    (("plan", "--most", 1), "most must be"),
    (("train", "--out", "{tmp}/t", "--steps", 0), "steps must be"),
    (("train", "--out", "{tmp}/t", "--learning-rate", 50), "largest stable step"),
    (("train", "--out", "{tmp}/t", "--loss", "all"), "--loss is not an option of --model gamma"),
    (("train", "--out", "{tmp}/t", "--model", "full", "--layers", 2), "--layers is not an option of --model full"),
    (("train", "--out", "{tmp}/t", "--model", "full", "--runs", 2), "--runs 2 is for --model gamma"),
    (("train", "--out", "{tmp}/t", "--model", "gpt2", "--test", 99), "raise --max-context"),
    (("train", "--out", "{tmp}/t", "--model", "rnn"), "--model"),
    (("compare", "--context", 0), "--context must be at least 1"),
    (("compare", "--sigma", 0, "--d", 4), "sigma"),
    (("compare", "--run", "{tmp}"), "config.yaml"),
    (("estimate", "missing.csv"), "missing.csv"),
    (("estimate", "{tmp}/short.csv", "--context", 3), "3 of 4 tasks have fewer than 4 rows (task 'b' has 2)"),
    (("estimate", "{tmp}/short.csv", "--task", "id"), "needs one column 'id'"),
    (("estimate", "{tmp}/text.csv"), "line 3, column 'x': 'oops' is not a finite number"),
    (("estimate", "{tmp}/missing.csv"), "line 3, column 'x' is empty: fill missing values or drop the row"),
    (("estimate", "{tmp}/nameless.csv"), "line 2, column 'task' is empty"),
    (("estimate", "{tmp}/twice.csv"), "more than one column 'x'"),
    (("estimate", "{tmp}/empty.csv"), "needs one column 'task'; it has: nothing"),
    (("estimate", "{tmp}/header.csv"), "holds no rows"),
    (("estimate", "{tmp}/short.csv", "--fraction", 1.5, "--context", 1), "--fraction must be between 0 and 1"),
    (("plan", "--d", 4, "--no-relative", "--target", 5), "is met without pretraining"),
    (("risk", "--spectrum", "{tmp}/empty.csv"), "holds no numbers"),
    (("train", "--out", "{tmp}/t", "--checkpoint-every", 0), "--checkpoint-every must be"),
    (("train", "--out", "{tmp}/t", "--prompts", 1), "--prompts must be"),
    (("train", "--out", "{tmp}/t", "--runs", 0), "--runs must be"),
    (("train", "--out", "{tmp}/t", "--pool", 0), "pool must be"),
    (("compare", "--test", "0,3"), "--test must be at least 1"),
    (("compare", "--tasks", 1), "--tasks must be a whole number of at least 2"),
    (("bound", "--test", 0), "at least 1"),
    (("curve", "--runs", 1), "--runs must be a whole number of at least 2"),
    (("curve", "--test", 0), "at least 1"),
    (("estimate", "{tmp}/ragged.csv"), "line 2: 2 cells, the header has 3"),
    (("estimate", "{tmp}/constant.csv"), "feature 'x' never varies"),
    (("estimate", "{tmp}/few.csv"), "too few"),
    (("estimate", STATES, "--task", "state", "--target", "gsp", "--splits", 0), "splits"),
    (("reproduce", "--claims", "nothing"), "no claim 'nothing'"),
]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    texts = {
        "negative.csv": "3,2\n2,-1\n", "eigenvalues.txt": "2 -1\n", "zero.csv": "0,1\n", "words.csv": "a,b\n",
        "junk.npy": "no numbers",
        "short.csv": "task,y,x\n" + "a,1,1\na,2,1.5\na,2,1.1\na,2,3\n"
        + "".join(f"{name},1,{i}\n" for name in "bcd" for i in (1, 2)),
        "missing.csv": "task,y,x\na,1,1\na,2,\n", "nameless.csv": "task,y,x\n,1,1\n", "empty.csv": "",
        "twice.csv": "task,y,x,x\na,1,1,2\n", "header.csv": "task,y,x\n",
        "text.csv": "task,y,x\na,1,1\na,2,oops\n", "ragged.csv": "task,y,x\na,1\n",
        "constant.csv": "task,y,x\n" + "".join(f"t{i // 4},{i % 3},7\n" for i in range(40)),
        "few.csv": "task,y,x\n" + "".join(f"t{i // 4},{i % 3},{i % 5}\n" for i in range(12)),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("arguments", "says"), BAD)
def test_bad_input_is_one_clear_line(arguments, says, bad_files, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(bad_files.iterdir())
    assert command(*[str(item).replace("{tmp}", str(bad_files)) for item in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert "Traceback" not in error
    assert sorted(bad_files.iterdir()) == before


def test_reproduce_at_smoke_scale(tmp_path, capsys):
    ids = "few-tasks,under-the-bound,near-bayes-factor,length-gap,length-regimes,rates,ridge-is-bayes,runs-on-the-curve"
    assert command("reproduce", "--scale", "smoke", "--claims", ids, "--out", tmp_path / "s") == 0
    claims = json.loads((tmp_path / "s" / "result.json").read_text())["claims"]
    assert [claim["verdict"] for claim in claims] == ["reproduced"] * 8


def test_a_claim_that_does_not_hold_is_said_to_and_ends_with_1(tmp_path, capsys):
    """A factor of 2 is exceeded in the limit of long contexts, by a closed form: at every scale."""
    assert command("reproduce", "--scale", "smoke", "--claims", "near-bayes", "--out", tmp_path / "s") == 1
    claim = json.loads((tmp_path / "s" / "result.json").read_text())["claims"][0]
    assert claim["verdict"] == "not reproduced"
    assert claim["measured"]["N to infinity"] == pytest.approx(1 + 1 + 1 / 30)


def test_the_trained_claims_run_at_smoke_scale(tmp_path, capsys):
    ids = "dimension-free,full-weights,gpt2-near-bayes"
    assert command("reproduce", "--scale", "smoke", "--claims", ids, "--out", tmp_path / "s") == 0
    claims = json.loads((tmp_path / "s" / "result.json").read_text())["claims"]
    assert [claim["verdict"] for claim in claims] == ["reproduced", "not at this scale", "not at this scale"]


def test_help_does_not_wait_for_torch():
    code = "import sys; from icl_linear import cli; sys.argv = ['icl-linear', '--help']; cli.main()"
    code += "; print('torch' in sys.modules)"
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False")
    assert time.perf_counter() - start < 10
