"""Paired statistics against closed forms and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rar_prompt.statistics import (
    accuracy_interval,
    best_of,
    clustered_bootstrap,
    compare,
    holm,
    kappa,
    mcnemar,
    paired_bootstrap,
    sign_flip,
    wilson,
)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(7, 44, 1.21e-7), (4, 26, 5.9e-5), (19, 58, 9.8e-6), (24, 9, 0.014), (4, 11, 0.12), (0, 0, 1.0), (3, 3, 1.0)],
)
def test_mcnemar_of_the_published_pairs(lost, gained, p):
    assert mcnemar(lost, gained) == pytest.approx(p, rel=0.04)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_counts_sign_patterns(lost, gained):
    total = lost + gained
    extreme = abs(gained - lost)
    hits = sum(abs(2 * sum(signs) - total) >= extreme for signs in itertools.product((0, 1), repeat=min(total, 12)))
    if total <= 12:
        assert mcnemar(lost, gained) == pytest.approx(hits / 2**total)


@given(st.integers(1, 300), st.data())
def test_wilson_ends_solve_their_equation(n, data):
    right = data.draw(st.integers(0, n))
    z = 1.959963984540054
    for end in wilson(right, n):
        assert (right / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, abs=1e-12)


@pytest.mark.parametrize("n", range(1, 60))
def test_wilson_of_none_and_of_all_begins_and_ends_at_the_share(n):
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 1.0


def test_wilson_reference():
    assert wilson(94, 105) == pytest.approx((0.8220879, 0.9404891), abs=1e-6)


def test_repeats_of_a_question_do_not_narrow_the_interval():
    draw = np.random.default_rng(0)
    inside = naive = 0
    for _ in range(300):
        chance = draw.beta(0.3, 0.3, 30)  # most questions are always right or always wrong
        right = (draw.random((30, 5)) < chance[:, None]).ravel().tolist()
        low, high = accuracy_interval(right, np.repeat(np.arange(30), 5).tolist())
        inside += low <= 0.5 <= high
        low, high = wilson(sum(right), 150)
        naive += low <= 0.5 <= high
    assert 0.91 <= inside / 300 <= 0.98
    assert naive / 300 < 0.8


def test_single_answers_have_wilsons_interval_and_equal_repeats_count_once():
    assert accuracy_interval([True] * 3 + [False] * 7, list(range(10))) == wilson(3, 10)
    repeated = accuracy_interval([True] * 15 + [False] * 35, [index // 5 for index in range(50)])
    assert repeated == pytest.approx(wilson(3, 10), abs=0.02)
    assert accuracy_interval([True] * 20, [index // 5 for index in range(20)]) == wilson(4, 4)


def test_no_change_on_few_items_is_not_certainty():
    low, high = paired_bootstrap(0, 0, 20)
    assert (1 - high) ** 20 == pytest.approx(0.025)
    assert low == -high
    assert clustered_bootstrap([0.0] * 40, [index // 2 for index in range(40)]) == (low, high)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_bootstrap_has_the_moments_of_the_difference():
    lost, gained, n = 20, 50, 200
    low, high = paired_bootstrap(lost, gained, n, reps=200_000)
    mean = (gained - lost) / n
    sd = np.sqrt(((gained + lost) / n - mean**2) / n)
    assert (low, high) == pytest.approx((mean - 1.96 * sd, mean + 1.96 * sd), abs=0.006)


def test_clusters_widen_the_interval_when_their_items_agree():
    change = [1.0] * 30 + [-1.0] * 15 + [0.0] * 45
    alone = clustered_bootstrap(change, list(range(90)))
    people = clustered_bootstrap(change, [index // 3 for index in range(90)])
    assert people[1] - people[0] == pytest.approx(3**0.5 * (alone[1] - alone[0]), rel=0.1)


def test_sign_flip_with_single_clusters_is_mcnemar():
    change = [1.0] * 9 + [-1.0] * 2 + [0.0] * 20
    assert sign_flip(change, list(range(31))) == pytest.approx(mcnemar(2, 9))


def test_compare_takes_clusters_into_account():
    before, after = [False] * 30 + [True] * 6, [True] * 30 + [False] * 6
    plain = compare(before, after)
    assert (plain.lost, plain.gained, plain.n, plain.p) == (6, 30, 36, mcnemar(6, 30))
    people = compare(before, after, [index // 3 for index in range(36)])
    assert people.clusters == 12
    assert people.p > plain.p


def test_the_best_of_equal_variants_is_no_discovery():
    draw = np.random.default_rng(0)
    small = []
    for _ in range(40):
        baseline, variants = draw.random(60) < 0.5, draw.random((5, 60)) < 0.5
        found = best_of(variants, baseline, reps=400)
        assert found.corrected < found.naive
        small.append(found.p < 0.05)
    assert sum(small) <= 6


def test_the_best_of_equal_variants_is_no_discovery_with_repeats_either():
    draw = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 5).tolist()

    def answers():
        return (draw.random((30, 5)) < draw.beta(0.3, 0.3, 30)[:, None]).ravel()

    trials = [(np.stack([answers() for _ in range(3)]), answers()) for _ in range(60)]
    found = [[best_of(*trial, groups, reps=300).p < 0.05 for trial in trials] for groups in (people, None)]
    assert sum(found[0]) <= 7
    assert sum(found[1]) > 9, "without clusters five samples count as five questions"


def test_a_truly_better_variant_keeps_most_of_its_gain():
    draw = np.random.default_rng(0)
    baseline = draw.random(300) < 0.4
    variants = np.stack([draw.random(300) < 0.4, draw.random(300) < 0.9])
    found = best_of(variants, baseline)
    assert found.best == 1
    assert found.p < 0.001
    assert found.corrected == pytest.approx(found.naive, abs=0.03)


def test_kappa_by_hand():
    assert kappa([1, 1, 0, 0], [1, 0, 0, 0]) == pytest.approx(0.5)
    assert kappa([1, 1], [1, 1]) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: mcnemar(-1, 0),
        lambda: wilson(3, 2),
        lambda: compare([], []),
        lambda: compare([True], [True, False]),
        lambda: paired_bootstrap(3, 3, 5),
        lambda: best_of(np.ones((2, 3)), np.ones(4)),
        lambda: best_of(np.ones((2, 3)), np.ones(3), ["a", "a", "a"]),
        lambda: kappa([1], []),
    ],
)
def test_impossible_counts_are_refused(call):
    with pytest.raises(ValueError, match=r"need|negative"):
        call()
