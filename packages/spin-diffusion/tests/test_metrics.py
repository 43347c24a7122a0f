"""Distances and scores against closed forms, brute force and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from spin_diffusion import metrics


def _rows(seed: int, rows: int = 60, width: int = 4, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)) * scale + shift


def test_frechet_distance_is_the_matrix_formula() -> None:
    x, y = _rows(0), _rows(1, scale=1.7, shift=0.3)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(0) - y.mean(0)
    assert metrics.frechet_distance(x, y) == pytest.approx(
        gap @ gap + np.trace(a + b - 2 * sqrtm(a @ b).real), abs=1e-9
    )


def test_frechet_distance_in_one_dimension_is_that_of_two_gaussians() -> None:
    x, y = _rows(0, width=1), _rows(1, width=1, scale=2.0, shift=1.0)
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert metrics.frechet_distance(x.ravel(), y.ravel()) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 1000))
def test_distances_are_symmetric_and_vanish_on_the_same_rows(seed: int) -> None:
    x, y = _rows(seed, 20, 3), _rows(seed + 1, 20, 3, shift=0.5)
    for distance in (metrics.frechet_distance, metrics.kernel_distance):
        assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9, abs=1e-10)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kernel", ["polynomial", "gaussian"])
def test_kernel_distance_is_the_double_sum(kernel: str) -> None:
    x, y = _rows(0, 12, 3), _rows(1, 9, 3, shift=1.0)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 3 + 1) ** 3 if kernel == "polynomial" else math.exp(-((a - b) ** 2).sum() / (2 * 1.3**2))

    def within(z: np.ndarray) -> float:
        return float(np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]))

    expected = within(x) + within(y) - 2 * float(np.mean([k(a, b) for a in x for b in y]))
    assert metrics.kernel_distance(x, y, kernel, 1.3) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]


def test_kernel_distance_is_unbiased_where_both_sides_have_one_law() -> None:
    values = [metrics.kernel_distance(_rows(2 * s, 40), _rows(2 * s + 1, 40)) for s in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


def test_precision_and_recall_of_collapsed_and_of_scattered_samples() -> None:
    real = _rows(0, 200, 2)
    collapsed, scattered = _rows(1, 200, 2, scale=0.05), _rows(2, 200, 2, scale=20.0)
    same = metrics.precision_recall(real, real)
    assert (same.precision, same.recall) == (1.0, 1.0)
    assert metrics.precision_recall(real, collapsed).precision > 0.95
    assert metrics.precision_recall(real, collapsed).recall < 0.1
    assert metrics.precision_recall(real, scattered).precision < 0.2
    assert metrics.precision_recall(real, scattered).recall > 0.9


@pytest.mark.parametrize("neighbours", [None, 5])
def test_a_classifier_tells_apart_what_differs_and_only_that(neighbours: int | None) -> None:
    real = _rows(0, 300)
    same = metrics.two_sample_accuracy(real, _rows(1, 300), neighbours=neighbours)
    assert abs(same - 0.5) < 0.08
    assert metrics.two_sample_accuracy(real, _rows(2, 300, shift=3.0), neighbours=neighbours) > 0.97
    wider = metrics.two_sample_accuracy(real, _rows(3, 300, scale=3.0), neighbours=neighbours)
    assert wider > (0.9 if neighbours is None else 0.6)


def test_win_rate_counts_ties_one_half_and_its_interval_covers() -> None:
    assert metrics.win_rate([1, 2, 3, 3], [0, 2, 5, 1]).value == 0.625
    assert metrics.win_rate(torch.ones(5), torch.zeros(5)) == (1.0, 1.0, 1.0)
    covered = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        found = metrics.win_rate(generator.normal(size=80) + 0.5, generator.normal(size=80), draws=400, seed=seed)
        covered.append(found.low <= 0.6382 <= found.high)  # Phi(0.5 / sqrt 2)
    assert 0.9 < np.mean(covered) <= 1


def test_many_samples_of_a_prompt_count_by_their_mean() -> None:
    assert metrics.win_rate([[0, 2], [1, 1]], [[0, 1], [2, 2]]).value == 0.5


def test_summary_and_best_of_n() -> None:
    scores = torch.tensor([[1.0, 5.0], [2.0, 0.0], [3.0, 4.0]])
    assert metrics.best_of_n(scores).tolist() == [5.0, 2.0, 4.0]
    found = metrics.summary(scores)
    assert found == {"mean": 2.5, "median": 2.5, "best_of_2_mean": 11 / 3, "best_of_2_median": 4.0}
    assert metrics.summary([1.0, 2.0, 6.0]) == {"mean": 3.0, "median": 2.0}


def test_class_accuracy() -> None:
    assert metrics.class_accuracy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])) == 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.frechet_distance(_rows(0), _rows(1, width=3)), "one width, got 4 and 3"),
        (lambda: metrics.frechet_distance(_rows(0, 1), _rows(1)), "real set needs at least two rows"),
        (lambda: metrics.frechet_distance(_rows(0), _rows(1) * np.nan), "generated set is not finite"),
        (lambda: metrics.kernel_distance(_rows(0), _rows(1), "linear"), "kernel must be"),  # type: ignore[arg-type]
        (lambda: metrics.kernel_distance(_rows(0), _rows(1), "gaussian", 0.0), "bandwidth must be positive"),
        (lambda: metrics.precision_recall(_rows(0, 3), _rows(1)), "neighbours must be in 1..2"),
        (lambda: metrics.two_sample_accuracy(_rows(0, 3), _rows(1)), "5 folds need"),
        (lambda: metrics.win_rate([1, 2], [1]), "one shape"),
        (lambda: metrics.win_rate([1, np.nan], [1, 1]), "not finite"),
        (lambda: metrics.bootstrap([], level=0.9), "at least one value"),
        (lambda: metrics.bootstrap([1.0], level=1.0), "level must be"),
        (lambda: metrics.best_of_n([1.0]), "must be \\[prompts, samples\\]"),
        (lambda: metrics.class_accuracy(np.ones((2, 3)), [0]), "one label a row"),
    ],
)
def test_what_cannot_be_measured_says_so(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]
