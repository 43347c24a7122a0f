"""A whole run in one compiled call: the same bits as step by step, alone or with others, pruned or not."""

import time
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_sgd.accuracy import exact_accuracy
from parity_sgd.codes import all_codes, unpack
from parity_sgd.gradient import batch_gradient
from parity_sgd.network import integer_power, random_weights
from parity_sgd.optimizer import threshold_sign
from parity_sgd.parity import SparseParity
from parity_sgd.scaling import end_to_end_batch, success_cell
from parity_sgd.settings import SignSGD
from parity_sgd.steps import _limits
from parity_sgd.streams import Stream, fill_words
from parity_sgd.threads import each_in_threads
from parity_sgd.training import Trainer, start_together

CASES = [(1, 1, 3, 4, 6, 0.0), (16, 3, 64, 700, 40, 0.0), (10, 4, 50, 300, 30, 0.0), (13, 2, 17, 20, 40, 0.1)]
CASES += [(70, 2, 32, 5, 40, 0.0), (96, 3, 20, 500, 60, 0.0)]


def settings_of(k: int, m: int, batch: int, steps: int, noise: float, prune: bool = True) -> SignSGD:
    return SignSGD(m, batch, steps, 0.5 * (1 - 2 * noise) * factorial(k), prune=prune)


def test_the_stream_is_numpys_sfc64() -> None:
    sequence = np.random.SeedSequence([5, 0])
    words = np.empty(1000, np.uint64)
    fill_words(Stream(5, "points", torch.device("cpu")).words, words)
    assert np.array_equal(words, np.random.SFC64(sequence).random_raw(1000))


@pytest.mark.parametrize(("d", "k", "m", "batch", "steps", "noise"), CASES)
def test_a_compiled_run_is_the_step_by_step_one(d: int, k: int, m: int, batch: int, steps: int, noise: float) -> None:
    task = SparseParity(d, k=k, label_noise=noise)
    trainer = Trainer(task, settings_of(k, m, batch, steps, noise), seed=3)
    stream, W = task.with_seed(3), trainer.W0.clone()
    for _ in range(steps):
        codes, y, _ = stream.rows(batch)
        sign = threshold_sign(batch_gradient(W, trainer.a, k, codes, y), trainer.settings.rho).float()
        W = np.float32(0.9) * W + np.float32(0.1) * sign
    trainer.advance(steps)
    assert torch.equal(trainer.W, W)


@pytest.mark.parametrize(("d", "k", "m", "batch", "steps", "noise"), CASES)
def test_leaving_out_what_cannot_move_changes_nothing(
    d: int, k: int, m: int, batch: int, steps: int, noise: float
) -> None:
    task = SparseParity(d, k=k, label_noise=noise)
    runs = [Trainer(task, settings_of(k, m, batch, steps, noise, prune), seed=1) for prune in (False, True)]
    for run in runs:
        run.advance(steps)
    assert torch.equal(runs[0].W, runs[1].W)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("d", "batch"), [(12, 60), (17, 9000), (40, 30), (9, 1000)])
def test_stacked_seeds_are_single_runs_to_the_bit(d: int, batch: int, threads: int) -> None:
    task, chosen = SparseParity(d, k=2), settings_of(2, 24, batch, 25, 0.0)
    together = start_together(task, chosen, [4, 9, 2, 7])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        each_in_threads(lambda trainer: trainer.advance(25), together, task.device)
    finally:
        torch.set_num_threads(before)
    for trainer in together:
        alone = Trainer(task, chosen, trainer.seed)
        alone.advance(25)
        assert torch.equal(alone.W0, trainer.W0)
        assert torch.equal(alone.a, trainer.a)
        assert torch.equal(alone.W, trainer.W)


def test_an_error_in_any_thread_is_raised() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for bad in range(4):
            with pytest.raises(ZeroDivisionError):
                each_in_threads(lambda item, bad=bad: 1 / (item - bad), range(4), torch.device("cpu"))
        assert each_in_threads(lambda item: item * item, range(9), torch.device("cpu")) == [i * i for i in range(9)]
    finally:
        torch.set_num_threads(before)


def test_after_an_error_no_thread_begins_another_item() -> None:
    begun = []

    def one(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise KeyboardInterrupt
        time.sleep(0.01)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            each_in_threads(one, range(100), torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
    assert len(begun) <= 3


def test_a_stacked_sweep_is_its_single_runs_whatever_the_stacking() -> None:
    table = end_to_end_batch(2, [10, 16, 40], width=32, runs=5, needed=4, seed=30)
    for (d, batch), cell in table.groupby(["d", "batch_size"]):
        shared = {"width": 32, "learning_rate": 0.1, "threshold": 0.5}
        seeds = cell["seed"].tolist()
        for parts in ([seeds[:2], seeds[2:]], [[seed] for seed in seeds[::-1]]):
            rows = [row for part in parts for row in success_cell(2, int(d), int(batch), seeds=part, **shared)]
            assert {row["seed"]: row["accuracy"] for row in rows} == dict(
                zip(cell["seed"], cell["accuracy"], strict=True)
            )


@given(
    a=st.floats(-3, 3), k=st.integers(1, 5), batch=st.integers(1, 8192), rho=st.floats(0, 60), ulps=st.integers(-3, 3)
)
@settings(max_examples=200, deadline=None)
def test_sums_are_compared_in_float32_as_in_float64(a: float, k: int, batch: int, rho: float, ulps: int) -> None:
    scale = np.array([a * k / batch])
    (limit,) = _limits(scale, rho)
    total = np.float32(limit)
    for _ in range(abs(ulps)):
        total = np.nextafter(total, np.float32(np.copysign(np.inf, ulps)))
    if scale[0] and np.isfinite(total) and total >= 0:
        assert (total >= limit) == (np.float64(total) * abs(scale[0]) >= rho)


@pytest.mark.parametrize(("d", "k"), [(1, 1), (5, 3), (9, 4), (12, 2)])
def test_half_of_the_cube_gives_the_accuracy_of_the_whole(d: int, k: int) -> None:
    W, a = random_weights(d, 9, torch.Generator().manual_seed(d))
    W *= torch.rand(W.shape, generator=torch.Generator().manual_seed(1))
    X = unpack(all_codes(d), d).double()
    margins = X[:, :k].prod(1) * (integer_power(X @ W.double().T, k) @ a.double())
    found = exact_accuracy(W, a, range(k))
    assert found.value == (margins > 0).double().mean()
    assert found.margin == pytest.approx(margins.min().item() / 9, abs=1e-4)
