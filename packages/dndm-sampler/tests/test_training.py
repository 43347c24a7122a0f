"""Training: learns, resumes to the same weights, keeps only data in its files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from dndm_sampler.config import TrainConfig
from dndm_sampler.corpus import decode, encode, normalise, split
from dndm_sampler.metrics import NGramModel, TextScorer, bleu, unigram_tv
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.training import corrupt, load_model, train_text, train_translation
from dndm_sampler.translation import LENGTH, PAD_ID, digits, in_words, references, share_valid, to_text
from safetensors.torch import load_file
from shared_core.errors import InputError, RunError

CPU = torch.device("cpu")
SMALL = TrainConfig(steps=24, width=16, length=32, batch_size=8, checkpoint_every=8)


def test_training_lowers_the_held_out_loss(tmp_path, text_file):
    losses = []
    for steps in (1, 60):
        config = TrainConfig(steps=steps, width=16, length=32, batch_size=16)
        train_text(tmp_path / str(steps), text_file, config, 0, CPU)
        losses.append(json.loads((tmp_path / str(steps) / "result.json").read_text())["held_out_loss"])
    assert losses[1] < losses[0] - 0.3


def test_an_interrupted_training_ends_at_the_same_weights(tmp_path, text_file, monkeypatch):
    train_text(tmp_path / "whole", text_file, SMALL, 3, CPU)
    from dndm_sampler import training

    real, made = training.denoising_loss, []

    def interrupted(*arguments):
        made.append(1)
        if len(made) == 14:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "denoising_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_text(tmp_path / "cut", text_file, SMALL, 3, CPU)
    monkeypatch.setattr(training, "denoising_loss", real)
    train_text(tmp_path / "cut", text_file, SMALL, 3, CPU)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "cut" / "metrics.jsonl").read_text()


def test_a_killed_training_goes_on_with_the_same_command(tmp_path, text_file):
    out = tmp_path / "killed"
    options = ["train", "--text", str(text_file), "--training.width", "16", "--training.steps", "120",
               "--training.checkpoint-every", "5", "--training.batch-size", "4",
               "--out", str(out), "--device", "cpu"]  # fmt: skip
    command = [sys.executable, "-c", "import sys; from dndm_sampler.cli import main; sys.exit(main())", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists(), "the kill came too late to test anything"
    assert subprocess.run(command, capture_output=True).returncode == 0
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 121, 5))
    config = TrainConfig(steps=120, width=16, checkpoint_every=5, batch_size=4)
    train_text(tmp_path / "whole", text_file, config, 0, CPU)
    whole, killed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, text_file, monkeypatch):
    from dndm_sampler import training

    real, made = training.denoising_loss, []

    def spoiled(*arguments):
        made.append(1)
        return real(*arguments) * (float("nan") if len(made) > 10 else 1)

    monkeypatch.setattr(training, "denoising_loss", spoiled)
    with pytest.raises(RunError, match="training loss is nan at step 16"):
        train_text(tmp_path / "run", text_file, SMALL, 0, CPU)
    weights = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.parametrize("damage", ["truncate", "foreign", "missing"])
def test_damaged_models_are_one_clear_error(tmp_path, trained, damage):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_bytes((trained["absorbing"] / name).read_bytes())
    weights = folder / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "foreign":
        (folder / "model.json").write_text('{"task": "text", "config": {"depth": 3}}')
    else:
        weights.unlink()
    with pytest.raises(InputError, match=str(folder)):
        load_model(folder)


def test_a_loaded_model_gives_the_same_logits(trained):
    model, task, config = load_model(trained["absorbing"])
    again, _, _ = load_model(trained["absorbing"])
    x, t = torch.randint(28, (2, 32)), torch.rand(2)
    assert torch.equal(model(x, t), again(x, t))
    assert (task, config.noise, model.training) == ("text", "absorbing", False)
    assert torch.allclose(model.head(model.hidden(x, t)[1, 3:4]), model(x, t)[1, 3:4], atol=1e-5)


@pytest.mark.parametrize("noise", ["absorbing", "multinomial"])
def test_corruption_has_the_marginal_of_the_schedule(noise):
    schedule = TransitionSchedule("cosine")
    clean = torch.zeros(2000, 50, dtype=torch.long)
    noisy = corrupt(clean, schedule, 27, noise, torch.Generator().manual_seed(0))
    changed = (noisy.noisy != 0).double().mean(1)
    expected = (1 - schedule.alpha(noisy.t.double())) * (1 if noise == "absorbing" else 26 / 27)
    assert float((changed - expected).mean()) == pytest.approx(0, abs=0.005)
    assert bool(noisy.where.all()) == (noise == "multinomial")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": "gaussian"}, "noise must be absorbing or multinomial"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"width": 12}, "multiple of 8"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"held_out": 1.0}, "held_out must be from 0.01 to 0.5"),
        ({"schedule": "none"}, "there is no 'none'"),
        ({"length": 100_000}, "at least 1000000"),
    ],
)
def test_bad_settings_are_refused(tmp_path, text_file, change, message):
    with pytest.raises(InputError, match=message):
        train_text(tmp_path / "run", text_file, TrainConfig(**{"steps": 1, **change}), 0, CPU)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_translation_dialects_and_digits():
    assert " ".join(in_words(342, 0)) == "three hundred forty two"
    assert " ".join(in_words(342, 1)) == "three hundred and forty two"
    assert " ".join(in_words(342, 2)) == "three hundred two and forty"
    assert in_words(0, 1) == ["zero"]
    assert digits(torch.tensor([1234])).tolist() == [[0, 0, 1, 2, 3, 4]]
    numbers = torch.arange(0, 10**6, 997)
    refs = references(numbers)
    assert refs.shape == (len(numbers), 3, LENGTH)
    assert len({text for row in refs for text in to_text(row[:1])}) == len(numbers), "plain words tell numbers apart"
    assert share_valid(refs[:, 1], refs) == 1
    assert share_valid(torch.full((3, LENGTH), PAD_ID), refs[1:4]) == 0
    assert bleu(to_text(refs[:, 2]), [to_text(row) for row in refs]) == pytest.approx(100)


def test_the_translation_model_trains_and_saves(tmp_path):
    model = train_translation(tmp_path / "run", TrainConfig(steps=4, width=16, batch_size=8), 0, CPU)
    loaded, task, _ = load_model(tmp_path / "run")
    source = digits(torch.tensor([120, 999_999]))
    x = references(torch.tensor([120, 999_999]))[:, 0]
    logits = model(x, torch.rand(2), source=source)
    assert logits.shape[:2] == x.shape
    assert task == "translation"
    t = torch.tensor([0.5, 0.5])
    assert torch.allclose(loaded(x, t, memory=loaded.encode(source)), loaded(x, t, source=source), atol=1e-5)


def test_letters_and_ids():
    text = normalise("It's 3 o'clock: ÄÖ Tea-time!\n")
    assert text == "it s o clock tea time"
    assert decode(encode(text)[None]) == [text]
    with pytest.raises(InputError, match="a-z and spaces"):
        encode("Tea")
    train, held = split(torch.arange(1000))
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(1000))
    assert len(held) == 100


def test_ngram_model_is_a_probability_law_and_prefers_its_text(text_file):
    ids = encode(normalise(text_file.read_text(encoding="utf-8")))
    model = NGramModel(ids)
    for table in model.tables:
        assert torch.allclose(table.sum(1), torch.ones(len(table), dtype=torch.float64))
    rows = ids[: 32 * 50].view(50, 32)
    noise = torch.randint(27, rows.shape, generator=torch.Generator().manual_seed(0))
    assert float(model.nll(rows).mean()) < 2 < float(model.nll(noise).mean())
    quality = TextScorer(ids).score(rows)
    assert quality.word_share == 1
    assert quality.distinct > 0.9
    assert unigram_tv(ids[None], torch.bincount(ids, minlength=27) / len(ids)) == pytest.approx(0, abs=1e-6)


def test_a_batch_in_which_nothing_is_masked_does_not_spoil_the_weights(tmp_path, text_file):
    config = TrainConfig(steps=60, batch_size=1, length=2, width=16)
    model = train_text(tmp_path / "run", text_file, config, 0, torch.device("cpu"))
    assert all(bool(torch.isfinite(value).all()) for value in model.parameters())
