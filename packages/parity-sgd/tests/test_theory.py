"""Closed forms of the paper against enumeration."""

from itertools import product
from math import factorial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_sgd.accuracy import _sample_points, exact_accuracy, wilson_interval
from parity_sgd.baselines import autograd_gradient
from parity_sgd.codes import all_codes, pack, parity, random_codes, unpack
from parity_sgd.gradient import batch_gradient, critical_batch, population_gradient, second_moment
from parity_sgd.network import PolyParityNet, random_weights
from parity_sgd.neurons import is_good, predict_outcome, recover_support, success_probability
from parity_sgd.population import population_path, population_run
from shared_core.errors import InputError


@pytest.mark.parametrize("k", range(1, 7))
def test_the_good_network_is_2_to_k_times_k_factorial_times_the_parity(k: int) -> None:
    support = [1, 2, 4, 5, 7, 8][:k]
    network = PolyParityNet.good(9, support)
    X = unpack(all_codes(9), 9)
    assert torch.equal(network(X), 2**k * factorial(k) * X[:, support].prod(1))
    accuracy = exact_accuracy(network.W.detach(), network.a, support)
    assert accuracy.value == 1
    assert accuracy.margin * 2**k == 2**k * factorial(k)


@given(seed=st.integers(0, 10_000), d=st.integers(2, 8), k=st.integers(1, 4), noise=st.sampled_from([0.0, 0.2]))
@settings(max_examples=40, deadline=None)
def test_the_closed_form_is_the_enumerated_gradient(seed: int, d: int, k: int, noise: float) -> None:
    k = min(k, d)
    generator = torch.Generator().manual_seed(seed)
    support = sorted(torch.randperm(d, generator=generator)[:k].tolist())
    W = torch.randn(3, d, dtype=torch.float64, generator=generator)
    a = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    X = torch.tensor(list(product([-1.0, 1.0], repeat=d)), dtype=torch.float64)
    enumerated = autograd_gradient(W, a, k, X, (1 - 2 * noise) * X[:, support].prod(1))
    torch.testing.assert_close(population_gradient(W, a, support, noise), enumerated, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("d", "k", "value"), [(8, 2, 32), (8, 3, 1584), (10, 4, 194560), (30, 1, 1)])
def test_second_moment_reference_values(d: int, k: int, value: int) -> None:
    assert second_moment(d, k) == value


@pytest.mark.parametrize(("d", "k"), [(5, 2), (6, 3), (7, 4), (8, 5)])
def test_second_moment_by_enumeration(d: int, k: int) -> None:
    sums = unpack(all_codes(d), d, torch.float64).sum(1)
    assert second_moment(d, k) == round(k * k * float((sums ** (2 * k - 2)).mean()))


def test_second_moment_closed_forms_at_large_d() -> None:
    d = 100_000
    assert second_moment(d, 2) == 4 * d
    assert second_moment(d, 3) == 9 * (3 * d * d - 2 * d)
    assert second_moment(d, 4) == 16 * (15 * d**3 - 30 * d**2 + 16 * d)


def test_critical_batch_beyond_floats_is_refused() -> None:
    with pytest.raises(InputError, match="range of a float"):
        critical_batch(10**6, 80, 8)


@pytest.mark.parametrize(("k", "path"), [(2, [1, 0.8, 0.62, 0.458, 0.4122]), (3, [1, 0.8, 0.62, 0.558, 0.5022])])
def test_bad_features_follow_the_reference_path(k: int, path: list[float]) -> None:
    found = population_path(k, steps=60, rho=0.5 * factorial(k))
    torch.testing.assert_close(found.bad_feature[:5], torch.tensor(path, dtype=torch.float64), atol=1e-12, rtol=0)
    assert bool((found.good_feature == 1).all())
    torch.testing.assert_close(found.noise, 0.9 ** torch.arange(61, dtype=torch.float64), atol=1e-12, rtol=0)


def test_an_exhaustive_batch_follows_the_population_path() -> None:
    d, k, support = 8, 3, [0, 3, 6]
    W, a = random_weights(d, 24, torch.Generator().manual_seed(1))
    codes = all_codes(d)
    path = population_run(W, a, support, steps=30, rho=3.0)
    now = W.double()
    for t in range(30):
        G = batch_gradient(now, a.double(), k, codes, parity(codes, support))
        now = 0.9 * now + 0.1 * torch.where(G.abs() >= 3.0, G.sign(), 0.0)
        torch.testing.assert_close(now, path[t + 1], atol=1e-12, rtol=0)


@given(n=st.integers(1, 50), d=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_packing_loses_nothing_and_parity_is_the_product(n: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    X = unpack(random_codes(n, d, generator), d)
    assert torch.equal(unpack(pack(X), d), X)
    support = torch.randperm(d, generator=generator)[: 1 + seed % d].tolist()
    assert torch.equal(parity(pack(X), support), X[:, support].prod(1))


def test_random_bits_are_fair_and_independent() -> None:
    X = unpack(random_codes(40_000, 19, torch.Generator().manual_seed(0)), 19)
    correlation = X.T @ X / len(X)
    assert (correlation - torch.eye(19)).abs().max() < 5 / 200
    assert X.mean(0).abs().max() < 5 / 200


def test_the_prediction_is_the_accuracy_of_the_ideal_end_state() -> None:
    for seed in range(20):
        W, a = random_weights(10, 32, torch.Generator().manual_seed(seed))
        support = [1, 4, 5, 9]
        ideal = torch.zeros_like(W)
        good = is_good(W, a, support)
        rows = good.nonzero().flatten()[:, None]
        ideal[rows, torch.tensor(support)] = W[rows, torch.tensor(support)]
        found = exact_accuracy(ideal, a, support)
        outcome = predict_outcome(W, a, support)
        assert outcome.accuracy == found.value
        assert 0 <= outcome.ties <= 1 - outcome.accuracy
        assert outcome.margin == pytest.approx(found.margin, rel=1e-6)
        assert outcome.good == int(good.sum())


@pytest.mark.parametrize(
    ("k", "m", "probability"),
    [(2, 4, 0.44), (2, 8, 0.81), (2, 16, 0.98), (3, 16, 0.58), (3, 32, 0.94), (4, 64, 0.58), (4, 128, 0.93)],
)
def test_width_success_reference_values(k: int, m: int, probability: float) -> None:
    assert success_probability(k, m) == pytest.approx(probability, abs=0.03)


def test_certified_accuracy_is_the_enumerated_one(trained: list) -> None:
    for run in trained:
        bound = exact_accuracy(run.W, run.a, (2, 7, 11), enumerate_max_d=0)
        assert bound.method == "certified"
        assert bound.value == run.accuracy.value
        assert bound.margin <= run.accuracy.margin + 1e-9


def test_sampled_accuracy_covers_the_enumerated_one() -> None:
    W, a = random_weights(12, 16, torch.Generator().manual_seed(0))
    exact = exact_accuracy(W, a, (0, 1))
    sampled = exact_accuracy(W, a, (0, 1), enumerate_max_d=0, samples=20_000)
    assert sampled.method == "sampled"
    assert sampled.low <= sampled.value <= sampled.high
    assert abs(sampled.value - exact.value) < 4 * (0.25 / 20_000) ** 0.5


def test_a_support_outside_the_network_has_no_accuracy() -> None:
    with pytest.raises(InputError, match=r"0..d-1 = 0..4"):
        exact_accuracy(torch.ones(2, 5), torch.ones(2), (0, 6))


def test_a_network_is_not_scored_on_its_own_start() -> None:
    """The seed of a start and that of the points it is scored on may be the same number."""
    network = PolyParityNet.random(40, 2, 64, seed=3)
    codes, _ = _sample_points(64, 40, (0, 1), 3, torch.device("cpu"))
    assert (unpack(codes, 40) == network.W).float().mean() == pytest.approx(0.5, abs=0.05)


def test_ties_count_as_errors() -> None:
    W = torch.tensor([[1.0, 1.0]])  # f = (x1 + x2)^2 is 0 where the parity is -1
    assert exact_accuracy(W, torch.tensor([1.0]), (0, 1)).value == 0.5


def test_wilson_interval_reference_value() -> None:
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_support_recovery_reports_the_gap() -> None:
    found = recover_support(torch.tensor([[0.1, -1.0, 0.0], [0.3, 1.0, 0.0]]), 1)
    assert found.support == (1,)
    assert found.gap == pytest.approx(0.8)
    with pytest.raises(InputError, match="k must be"):
        recover_support(torch.ones(2, 3), 4)
