"""The fused gradient against matrix products and autograd, and the two ways to draw a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_sgd.accuracy import packed_values
from parity_sgd.baselines import autograd_gradient
from parity_sgd.codes import all_codes, pack, unpack
from parity_sgd.gradient import batch_gradient
from parity_sgd.network import PolyParityNet, random_weights
from parity_sgd.parity import SparseParity
from parity_sgd.threads import sum_in_threads
from shared_core.errors import InputError


@given(
    d=st.integers(1, 37),
    m=st.integers(1, 20),
    k=st.integers(1, 6),
    n=st.sampled_from([1, 7, 100, 600]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_table_look_up_is_the_autograd_gradient(d: int, m: int, k: int, n: int, seed: int) -> None:
    k = min(k, d)
    task = SparseParity(d, k=k, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, d, generator=generator)
    a = torch.randn(m, generator=generator).sign()
    codes, y, _ = task.rows(n)
    X = unpack(codes, d)
    expected = autograd_gradient(W.double(), a.double(), k, X.double(), y.double())
    scale = expected.abs().max().clamp_min(1)
    assert (batch_gradient(W, a, k, codes, y) - expected).abs().max() < 2e-5 * scale
    assert (batch_gradient(W.double(), a.double(), k, codes, y) - expected).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("rows", [1, 13, 511, 512, 5000])
def test_the_first_step_is_exact_integers_however_the_batch_is_cut(rows: int) -> None:
    task = SparseParity(33, [0, 8, 32])
    W, a = random_weights(33, 17, torch.Generator().manual_seed(0))
    codes, y, _ = task.rows(5000)
    whole = batch_gradient(W.double(), a.double(), 3, codes, y, total=1)
    parts = zip(codes.split(rows), y.split(rows), strict=True)
    cut = sum_in_threads(lambda part: batch_gradient(W, a, 3, part[0], part[1], total=1), parts)
    assert torch.equal(whole, cut)


def test_counts_and_rows_agree_on_the_same_points() -> None:
    task = SparseParity(9, [0, 4, 8], label_noise=0.1, seed=3)
    W, a = random_weights(9, 8, torch.Generator().manual_seed(0))
    codes, weights, total = task.counts(5000)
    repeated = codes.repeat_interleave(weights.abs().long(), dim=0)
    signs = weights.sign().repeat_interleave(weights.abs().long())
    assert torch.equal(batch_gradient(W, a, 3, codes, weights, total), batch_gradient(W, a, 3, repeated, signs, total))


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_counts_have_the_law_of_rows(noise: float) -> None:
    W, a = random_weights(6, 2, torch.Generator().manual_seed(0))
    B, repeats = 200, 1200
    laws = []
    for draw in ("rows", "counts"):
        task = SparseParity(6, k=2, label_noise=noise, seed=1)
        G = torch.stack([batch_gradient(W, a, 2, *getattr(task, draw)(B)).flatten() for _ in range(repeats)])
        laws.append((G.mean(0), torch.cov(G.T)))
    spread = laws[0][1].diagonal().sqrt()
    assert ((laws[0][0] - laws[1][0]).abs() < 6 * spread / repeats**0.5).all()
    assert (laws[0][1] - laws[1][1]).abs().max() < 0.25 * spread.max() ** 2


def test_the_stream_does_not_depend_on_how_it_is_cut() -> None:
    task = SparseParity(13, k=3, label_noise=0.3, seed=5)
    codes, y = task.draw(6, 11)
    other = SparseParity(13, k=3, label_noise=0.3, seed=5)
    pieces = [other.draw(n, 11) for n in (1, 3, 2)]
    assert torch.equal(codes, torch.cat([piece[0] for piece in pieces]))
    assert torch.equal(y, torch.cat([piece[1] for piece in pieces]))


def test_samples_obey_the_law() -> None:
    task = SparseParity(10, [1, 5, 9], label_noise=0.1, seed=0)
    X, y = task.sample(20_000)
    wrong = (X[:, [1, 5, 9]].prod(1) != y).float().mean().item()
    assert wrong == pytest.approx(0.1, abs=0.01)
    assert set(X.unique().tolist()) == {-1.0, 1.0}
    x, label = next(iter(SparseParity(4, k=2)))
    assert label == x[0] * x[1]
    assert torch.equal(SparseParity(10, [1, 5, 9], seed=7).sample(5)[0], task.with_seed(7).clean().sample(5)[0])


def test_counts_are_refused_for_large_d() -> None:
    with pytest.raises(InputError, match="d <= 14"):
        SparseParity(15, k=2).counts(100)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_packed_values_are_the_network(k: int) -> None:
    network = PolyParityNet.random(9, k, 12, seed=2)
    codes = all_codes(9)
    with torch.no_grad():
        expected = network(unpack(codes, 9))
        torch.testing.assert_close(packed_values(network.W, network.a, k, codes).float(), expected)
        wide = packed_values(network.W.double(), network.a, k, codes)
        torch.testing.assert_close(wide.float(), expected)


@pytest.mark.parametrize("codes", [(5, 1), (5, 3), (4, 2)])
def test_points_of_another_size_are_refused(codes: tuple[int, int]) -> None:
    W, a = random_weights(12, 3, torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"codes must be \(5, 2\)"):
        batch_gradient(W, a, 2, torch.zeros(codes, dtype=torch.uint8), torch.ones(5))
    with pytest.raises(InputError, match=r"a \(3,\)"):
        batch_gradient(W, a[:2], 2, torch.zeros(5, 2, dtype=torch.uint8), torch.ones(5))


def test_permuting_coordinates_permutes_the_gradient() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    W, a = random_weights(12, 5, torch.Generator().manual_seed(1))
    X, y = SparseParity(12, k=3).sample(300)
    one = batch_gradient(W, a, 3, pack(X), y)
    assert torch.equal(one[:, order], batch_gradient(W[:, order], a, 3, pack(X[:, order]), y))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_bits_give_the_same_gradient_on_cuda() -> None:
    codes, y, _ = SparseParity(33, k=3).rows(3000)
    W, a = random_weights(33, 17, torch.Generator().manual_seed(0))
    there = batch_gradient(W.cuda(), a.cuda(), 3, codes.cuda(), y.cuda())
    assert torch.equal(there.cpu(), batch_gradient(W, a, 3, codes, y))
