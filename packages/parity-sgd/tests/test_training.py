"""Whole runs: outcome, exactness of pruning and of resuming, seeds, devices' errors."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from parity_sgd.network import random_weights
from parity_sgd.neurons import is_good
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.training import TrainedRun, Trainer, train
from shared_core.errors import InputError, RunError


def test_runs_end_where_the_start_predicts(trained: list[TrainedRun]) -> None:
    for run in trained:
        assert run.accuracy.value == run.predicted.accuracy == 1
        assert run.accuracy.method == "enumerated"
        assert run.recovered.support == (2, 7, 11)
        assert run.recovered.gap > 0.3


def test_good_features_stay_and_the_rest_dies(trained: list[TrainedRun]) -> None:
    support = [2, 7, 11]
    for run in trained:
        good = is_good(run.W0, run.a, support)
        # a batch of 6000 is below the critical 10_000: a feature may take a wrong step of 0.2, and then returns to +-1
        assert torch.allclose(run.W[good][:, support], run.W0[good][:, support], atol=0.01)
        assert run.W[~good].abs().max() < 0.05


def test_histories_count_samples(trained: list[TrainedRun]) -> None:
    history = trained[0].history
    assert isinstance(history, pd.DataFrame)
    assert history["samples"].tolist() == [20 * 6000, 40 * 6000, 60 * 6000]
    assert history["accuracy"].iloc[-1] == 1


def test_unlucky_starts_end_at_their_predicted_accuracy() -> None:
    runs = train(SparseParity(12, k=4), SignSGD(64, 40000, 60, 12.0), seeds=range(6))
    assert {run.predicted.accuracy for run in runs} > {1.0}
    for run in runs:
        assert run.accuracy.value == pytest.approx(run.predicted.accuracy, abs=0.01)


@pytest.mark.parametrize("batch", [300, 20000])
@pytest.mark.parametrize(("d", "noise"), [(20, 0.0), (10, 0.1)])
def test_a_resumed_run_is_bit_identical(batch: int, d: int, noise: float) -> None:
    task, settings = SparseParity(d, k=2, label_noise=noise), SignSGD(16, batch, 20, 0.5)
    whole = Trainer(task, settings, 3)
    whole.advance(20)
    first, second = Trainer(task, settings, 3), Trainer(task, settings, 3)
    first.advance(7)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    second.advance(13)
    assert torch.equal(whole.W, second.W)
    assert second.step == 20


def test_a_loaded_state_is_not_changed_by_the_run() -> None:
    task, settings = SparseParity(20, k=2), SignSGD(16, 300, 20, 0.5)
    first, second = Trainer(task, settings), Trainer(task, settings)
    first.advance(3)
    second.load_state_dict(first.state_dict())
    kept = first.W.clone()
    second.advance(5)
    assert torch.equal(first.W, kept)


def test_a_run_with_dead_neurons_does_not_depend_on_how_it_is_cut() -> None:
    task, settings = SparseParity(19, k=3), SignSGD(48, 3000, 80, 3.0)
    whole, cut = Trainer(task, settings), Trainer(task, settings)
    whole.advance(80)
    for steps in (7, 30, 1, 42):
        cut.advance(steps)
    assert not whole._alive().all()
    assert torch.equal(whole.W, cut.W)


def test_evaluating_does_not_change_a_run() -> None:
    task, settings = SparseParity(20, k=2), SignSGD(16, 100, 20, 1.0)
    plain, watched = Trainer(task, settings), Trainer(task, settings)
    plain.advance(20)
    for _ in range(20):
        watched.advance(1)
        watched.metrics()
    assert torch.equal(plain.W, watched.W)


def test_pruning_changes_nothing() -> None:
    task = SparseParity(16, k=3)
    kept, pruned = (Trainer(task, SignSGD(48, 3000, 80, 3.0, prune=prune)) for prune in (False, True))
    kept.advance(80)
    pruned.advance(80)
    assert pruned._alive().float().mean() < 0.7
    assert torch.equal(kept.W, pruned.W)


def test_seeds_do_not_depend_on_their_company() -> None:
    task, settings = SparseParity(16, k=2), SignSGD(16, 200, 20, 1.0)
    together = train(task, settings, seeds=[4, 5, 6])
    alone = train(task, settings, seeds=[5])
    assert torch.equal(together[1].W, alone[0].W)


def test_the_reference_path_on_other_types_is_the_fused_one() -> None:
    task, settings = SparseParity(16, k=3), SignSGD(24, 9000, 12, 3.0)
    weights = random_weights(16, 24, torch.Generator().manual_seed(0))
    fused = Trainer(task, settings, 0, weights)
    exact = Trainer(task, settings, 0, (weights[0].double(), weights[1].double()))
    fused.advance(12)
    exact.advance(12)
    torch.testing.assert_close(fused.W.double(), exact.W, atol=1e-5, rtol=0)


def test_label_noise_is_survived() -> None:
    task = SparseParity(32, k=2, label_noise=0.2)
    runs = train(task, SignSGD.default(task, batch_size=4000), seeds=range(2))
    assert all(run.accuracy.value == 1 for run in runs)


def test_divergence_is_a_run_error() -> None:
    trainer = Trainer(SparseParity(8, k=2), SignSGD(4, 10, 5, 0.0))
    trainer.W.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        trainer.advance(1)


def test_memory_does_not_grow_with_the_batch() -> None:
    """In a process of its own: torch's memory is seen by the operating system only, as the highest point so far."""
    code = """
import resource, sys
from parity_sgd import SignSGD, SparseParity, Trainer

def peak(batch):
    Trainer(SparseParity(64, k=2), SignSGD(4, batch, 1, 1.0)).advance(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

small = peak(100_000)
print(peak(8_000_000) - small)  # its packed bits alone are 64 MB, its coordinates as floats 2 GB
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 * 2**20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"batch_size": 0}, "batch-size must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 1, got -1"),
        ({"learning_rate": 0.0}, "learning-rate must be positive, got 0"),
        ({"decay": -1.0}, "decay must not be negative"),
        ({"learning_rate": 0.5, "decay": 3.0}, "decay \\* learning-rate must be at most 1, got 1.5"),
        ({"rho": -0.1}, "rho must not be negative"),
        ({"decay": float("nan")}, "decay must not be negative, got nan"),
        ({"learning_rate": float("inf"), "decay": 0.0}, "learning-rate must be positive, got inf"),
        ({"rho": 6.0}, "rho = 6 is not below the signal"),
    ],
)
def test_bad_settings_are_refused_in_a_line(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SignSGD.default(SparseParity(8, k=3), **changes)


@pytest.mark.parametrize(("d", "k"), [(1000, 13), (300, 200)])
def test_powers_beyond_float32_are_refused(d: int, k: int) -> None:
    with pytest.raises(InputError, match="range of a float32"):
        SignSGD.default(SparseParity(d, k=k), width=8, batch_size=100)
    SignSGD(8, 100, 10, 0.5).check(SparseParity(1000, k=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": 0, "k": 1}, "d must be at least 1"),
        ({"d": 4}, "give k"),
        ({"d": 4, "k": 5}, "k must be in 1..d = 1..4, got 5"),
        ({"d": 4, "k": 0}, "k must be in 1..d"),
        ({"d": 4, "support": [1, 1]}, "twice"),
        ({"d": 4, "support": [1, 4]}, "0..d-1 = 0..3"),
        ({"d": 4, "support": []}, "empty"),
        ({"d": 4, "support": [1], "k": 2}, "disagrees"),
        ({"d": 4, "k": 2, "label_noise": 0.5}, "label-noise must be in"),
        ({"d": 4, "k": 2, "seed": -1}, "seed must be in"),
    ],
)
def test_bad_tasks_are_refused_in_a_line(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseParity(**arguments)


def test_theory_warns_of_runs_that_cannot_succeed(caplog: pytest.LogCaptureFixture) -> None:
    task = SparseParity(64, k=4)
    found = SignSGD(32, 100, 10, 12.0).warn(task)
    assert len(found) == 3
    assert "width 32 is below max(8 * 2^k, 4^k / 2) = 128" in found[0]
    assert "probability" in found[0]
    assert not SignSGD.default(task).warn(task)
    assert "dead zone" in SignSGD.default(task, rho=0.0).warn(task)[0]
