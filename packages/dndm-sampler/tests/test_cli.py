"""Every verb as a user types it, and a table of what goes wrong."""

import csv
import json

import pytest
from dndm_sampler.cli import main
from shared_core.cli import run


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run the command; returns exit code, stdout and stderr."""
    import sys

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dndm-sampler", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_nfe_prints_the_reference_value(cli):
    code, out, _ = cli("nfe", "--num-steps", 50, "--length", 24, "--schedule", "beta:17,4", "--json")
    assert code == 0
    assert json.loads(out)["mean"] == pytest.approx(12.393, abs=5e-4)
    code, out, _ = cli("nfe", "--num-steps", "null", "--length", 9, "--batch-size", 4)
    assert code == 0
    assert "9" in out


def test_plan_writes_json_and_csv(cli, tmp_path):
    code, out, _ = cli("plan", "--length", 5, "--batch-size", 2, "--num-steps", 20, "--order", "left_to_right")
    times = json.loads(out)["transition_times"]
    assert code == 0
    assert all(row == sorted(row, reverse=True) for row in times)
    path = tmp_path / "plän.csv"
    assert cli("plan", "--length", 5, "--num-calls", 2, "--out", path)[0] == 0
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert len({row["time"] for row in rows}) == 2


def test_plot_schedule_draws_a_figure(cli, tmp_path):
    code, _out, _ = cli("plot-schedule", "--schedules", "linear,beta:5,3,cosine", "--out", tmp_path / "a.png")
    assert code == 0
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_verify_passes_and_fails_with_exit_1(cli, monkeypatch, tmp_path):
    code, out, _ = cli("verify", "--num-steps", "1,4")
    assert code == 0
    assert "0.207" in out
    assert "FAILS" not in out
    chain = tmp_path / "chain.json"
    chain.write_text(json.dumps({"initial": [0.5, 0.5], "transition": [[0.9, 0.1], [0.2, 0.8]], "length": 3}))
    code, out, _ = cli("verify", "--num-steps", "2", "--data", chain, "--json")
    assert code == 0
    assert all(check["holds"] for check in json.loads(out)["checks"].values())
    from dndm_sampler import verification

    monkeypatch.setattr(verification, "TOLERANCE", -1.0)
    assert cli("verify", "--num-steps", "2", "--data", chain)[0] == 1


def test_sample_fills_in_prompts_and_writes_files(cli, trained, tmp_path):
    code, out, err = cli("sample", trained["absorbing"], "--infill", "the ____ of", "--n", 3)
    assert code == 0
    rows = out.splitlines()
    assert len(rows) == 3
    assert all(row.startswith("the ") and row.endswith(" of") and "_" not in row for row in rows)
    assert "4 calls" in err
    path = tmp_path / "out.jsonl"
    assert cli("sample", trained["multinomial"], "--prompt", "in the ", "--length", 20, "--out", path,
               "--settings.token-correction", "loo", "--seed", 5)[0] == 0  # fmt: skip
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["text"].startswith("in the ") and len(row["text"]) == 20 for row in rows)
    assert all(0 < row["calls"] <= 13 for row in rows)


def test_sample_prints_json(cli, trained, tmp_path):
    command = ("sample", trained["absorbing"], "--length", 12, "--n", 2)
    code, out, _ = cli(*command, "--json", "--out", tmp_path / "a.txt")
    found = json.loads(out)
    texts = [row["text"] for row in found["rows"]]
    assert (code, len(texts), (tmp_path / "a.txt").read_text()) == (0, 2, "\n".join(texts) + "\n")
    assert cli(*command)[1].splitlines() == texts
    assert all(0 < row["calls"] <= found["calls"] for row in found["rows"])


def test_sample_infills_with_multinomial_noise(cli, trained):
    code, out, err = cli("sample", trained["multinomial"], "--infill", "th_ end", "--n", 2)
    assert code == 0
    assert "is biased even with a perfect denoiser" in err
    assert all(row[:2] == "th" and row[3:] == " end" for row in out.splitlines())


def test_the_same_seed_prints_the_same_text(cli, trained):
    runs = [cli("sample", trained["absorbing"], "--length", 24, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_compare_writes_a_table_and_resumes(cli, trained, tmp_path):
    arguments = ("compare", "--model", trained["absorbing"], "--samplers", "dndm,dndm_k,ancestral",
                 "--num-steps", "4,8", "--batch-size", 4, "--length", 16, "--out", tmp_path / "c")  # fmt: skip
    code, _out, _ = cli(*arguments)
    assert code == 0
    rows = list(csv.DictReader((tmp_path / "c" / "comparison.csv").open()))
    assert [(row["sampler"], row["T"]) for row in rows][:2] == [("dndm", "4"), ("dndm", "8")]
    assert (tmp_path / "c" / "figures" / "quality-calls.png").exists()
    before = (tmp_path / "c" / "result.json").read_text()
    assert cli(*arguments)[0] == 0
    assert (tmp_path / "c" / "result.json").read_text() == before


def test_sample_from_a_masked_language_model_in_a_folder(cli, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[MASK]", "the", "cat", "sat", "on", "mat"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]"
    )
    config = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        max_position_embeddings=12)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code, out, err = cli("sample", tmp_path, "--infill", "the [MASK] sat on [MASK] mat", "--n", 2)
    assert code == 0, err
    rows = [row.split() for row in out.splitlines()]
    assert all(row[0] == "the" and row[2:4] == ["sat", "on"] and len(row) == 6 for row in rows)
    code, _, err = cli("sample", tmp_path, "--length", 40)
    assert code == 2
    assert "40 tokens" in err
    assert "12 positions" in err


BAD = [
    (["nfe", "--length", "0"], "length must be at least 1, got 0"),
    (["nfe", "--num-steps", "0"], "num_steps must be at least 1"),
    (["nfe", "--length", "1000000"], "up to 10000 positions and 100000 steps, got 1000000 and 1000"),
    (["nfe", "--num-steps", "100000000"], "num_steps=None is the limit"),
    (["nfe", "--schedule", "beta:1e400,2"], "finite, got a = inf"),
    (["plan", "--seed", "-1"], "seed must be in 0..2**32-1, got -1"),
    (["train", "--seed", "99999999999999999999"], "seed must be in"),
    (["train", "--training.held-out", "0.99"], "held_out must be from 0.01 to 0.5"),
    (
        ["train", "--training.held-out", "0.01", "--training.length", "500", "--training.max-characters", "20000"],
        "less than one row of length 500",
    ),
    (["train", "--training.max-characters", "-5"], "max_characters must be at least 1, got -5"),
    (["train", "--task", "translation", "--training.width", "10"], "width must be a positive multiple of 4"),
    (["sample", "TRAINED", "--infill", ""], "--infill is empty"),
    (["sample", "TRAINED", "--seed", "99999999999999999999"], "seed must be in"),
    (["compare", "--length", "0"], "--length must be at least 1, got 0"),
    (["compare", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
    (["nfe", "--schedule", "beta:0,1"], "a > 0 and b > 0"),
    (["nfe", "--schedule", "@missing.json"], "missing.json: No such file"),
    (["nfe", "--batch-times", "all"], "--batch-times: expected one of"),
    (["plan", "--out", "plan.txt"], "--out must end in .json or .csv"),
    (["plan", "--num-calls", "0"], "num_calls must be at least 1"),
    (["plan", "--batch-size", "0"], "batch_size must be at least 1"),
    (["plot-schedule", "--out", "a.gif"], ".png, .svg or .pdf"),
    (["verify", "--num-steps", "0"], "--num-steps must be at least 1"),
    (["verify", "--data", "EMPTY"], "not JSON"),
    (["verify", "--data", "OBJECT"], "expected an object with initial"),
    (["train", "--text", "missing.txt"], "missing.txt: No such file"),
    (["train", "--text", "EMPTY"], "holds 0 letters"),
    (["train", "--text", "FOLDER"], "Is a directory"),
    (["train", "--text", "BINARY"], "is not UTF-8 text: byte 0"),
    (["train", "--task", "translation", "--text", "EMPTY"], "--text belongs to --task text"),
    (["train", "--training.noise", "pink"], "--training.noise: expected one of"),
    (["train", "--training.steps", "many"], "--training.steps: expected int"),
    (["train", "--device", "cuda:99"], "cuda:99"),
    (["sample", "missing"], "model missing is not a folder: give a run of train"),
    (["sample", "FOLDER"], "holds no trained model"),
    (["sample", "TRAINED", "--infill", "é_"], "a-z, spaces and the marker _"),
    (["sample", "TRAINED", "--infill", "a_", "--prompt", "b"], "--infill or --prompt"),
    (["sample", "TRAINED", "--prompt", "long prompt", "--length", "5"], "leaves nothing of --length 5"),
    (["sample", "TRAINED", "--out", "a.csv"], ".txt or .jsonl"),
    (["sample", "TRAINED", "--n", "0"], "--n must be at least 1"),
    (["sample", "TRAINED", "--settings.temperature", "-1"], "temperature must be 0 or more"),
    (["sample", "TRAINED", "--settings.token-correction", "loo"], "multinomial noise"),
    (["sample", "TRAINED", "--settings.top-k", "--settings.order", "left_to_right"], "contradicts order"),
    (["compare", "--samplers", "dndm,magic"], "there is no 'magic'"),
    (["compare", "--num-steps", "0"], "--num-steps must be at least 1"),
    (
        ["compare", "--model", "TRAINED", "--samplers", "dndm_loo", "--length", "16"],
        "dndm_loo is for multinomial noise",
    ),
    (["reproduce", "--claims", "nothing"], "there is no claim 'nothing'"),
    (["reproduce", "--scale", "huge"], "--scale: expected one of"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(cli, trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01" * 50)
    (tmp_path / "folder").mkdir()
    stand_ins = {"EMPTY": "empty", "OBJECT": "object.json", "BINARY": "binary", "FOLDER": "folder"}
    before = sorted(tmp_path.rglob("*"))
    code, _out, err = cli(*[str(trained["absorbing"]) if a == "TRAINED" else stand_ins.get(a, a) for a in arguments])
    assert code == 2, err
    assert message in err
    assert err.strip().count("\n") == 0, "one line"
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"


def test_an_unknown_verb_and_a_bare_command(capsys):
    assert run("dndm-sampler", [], ["nothing"]) == 2
    assert "there is no verb 'nothing'" in capsys.readouterr().err
