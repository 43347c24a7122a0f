"""Metrics against definitions, loops and brute force."""

import numpy as np
import pytest
from d3pm_ehr import Bernoulli, Cohort, GaussianDiffusion, MedGAN, embedded_cohort, evaluate, nearest
from d3pm_ehr.baselines import make_baseline
from d3pm_ehr.fidelity import (
    cooccurrence,
    correlation,
    fidelity,
    length_distance,
    mmd2,
    pair_errors,
    prediction_codes,
    prevalence,
    r2,
)
from d3pm_ehr.guidance_table import effect_size
from d3pm_ehr.nearest_records import _packed, _sparse
from d3pm_ehr.privacy import attribute_inference, copies, membership
from d3pm_ehr.utility import _intervals, check_no_leak, custom_task, disease_tasks, scores
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from shared_core.errors import InputError


@pytest.fixture(scope="module")
def cohorts() -> tuple[Cohort, Cohort]:
    return embedded_cohort(1200, seed=1, codes=40, columns=False), embedded_cohort(
        1200, seed=2, codes=40, columns=False
    )


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 40), st.floats(0.0, 0.7))
def test_nearest_is_the_loop_over_sets(seed: int, queries: int, references: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = (sparse.csr_matrix((rng.random((rows, 9)) < density).astype(np.uint8)) for rows in (queries, references))
    sets = [
        [set(table.indices[s:e]) for s, e in zip(table.indptr[:-1], table.indptr[1:], strict=True)] for table in (a, b)
    ]
    expected = [min((len(x ^ y), i) for i, y in enumerate(sets[1])) for x in sets[0]]
    for way in (_whole(_sparse), _whole(_packed), nearest):
        distance, where = way(a, b)
        assert list(zip(distance.tolist(), where.tolist(), strict=True)) == expected


def _whole(way):  # type: ignore[no-untyped-def] # a helper
    def call(a, b):  # type: ignore[no-untyped-def]
        parts = list(way(a, b))
        return tuple(np.concatenate([part[i] for part in parts]) for i in (0, 1))

    return call


def test_correlation_of_a_constant_code_is_zero_and_never_nan() -> None:
    cohort = Cohort.from_arrays(np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1], [1, 1, 1]]))
    found = correlation(cooccurrence(cohort))
    expected = np.corrcoef(cohort.dense()[:, 1:].T)
    np.testing.assert_allclose(found[1:, 1:], expected)
    np.testing.assert_array_equal(found[0], [1, 0, 0])


@pytest.mark.parametrize("block", [7, 512])
def test_pair_errors_in_blocks_are_those_of_whole_matrices(cohorts: tuple[Cohort, Cohort], block: int) -> None:
    common = prevalence(cohorts[0]) >= 0.05
    whole = [cooccurrence(cohort) for cohort in cohorts]
    error = correlation(whole[0]) - correlation(whole[1])
    between, off = error[np.ix_(common, common)], ~np.eye(int(common.sum()), dtype=bool)
    upper = np.triu_indices(40, 1)
    expected = {"cmd": np.linalg.norm(error), "cmd_floor": np.linalg.norm(between),
                "correlation_mean_error": np.abs(between)[off].mean(),
                "bigram_r2": r2(whole[0][upper], whole[1][upper])}  # fmt: skip
    assert pair_errors(*cohorts, common, block) == pytest.approx(expected)


def test_fidelity_of_the_same_records_is_perfect(cohorts: tuple[Cohort, Cohort]) -> None:
    found = fidelity(cohorts[0], cohorts[0])
    assert found["prevalence_spearman"] == pytest.approx(1)
    assert found["prevalence_r2"] == found["bigram_r2"] == 1
    assert found["cmd"] == found["cmd_floor"] == found["mcad"] == found["length_wasserstein"] == 0
    assert found["codes_never_generated"] == 0


def test_fidelity_ranks_held_out_above_independent(cohorts: tuple[Cohort, Cohort]) -> None:
    real, other = cohorts
    independent = Bernoulli().fit(other).sample(1200, 0)
    good, bad = fidelity(real, other), fidelity(real, independent)
    assert good["prevalence_r2"] == pytest.approx(bad["prevalence_r2"], abs=0.05)  # prevalence alone cannot tell
    assert good["cmd_floor"] < 0.8 * bad["cmd_floor"]
    assert good["mcad"] < bad["mcad"]
    assert good["bigram_r2"] > bad["bigram_r2"]
    assert good["mmd2"] < bad["mmd2"]


def test_mmd_is_the_double_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = (Cohort.from_arrays((rng.random((12, 5)) < p).astype(int)) for p in (0.3, 0.6))
    x, y = a.dense(), b.dense()
    d = lambda u, v: ((u[:, None] - v[None]) ** 2).sum(-1)  # noqa: E731 - a formula
    across = d(x, y)
    total = 0.0
    for factor in (0.5, 1, 2):
        h = 2 * np.median(across[across > 0]) * factor**2
        off = ~np.eye(12, dtype=bool)
        total += np.exp(-d(x, x) / h)[off].mean() + np.exp(-d(y, y) / h)[off].mean() - 2 * np.exp(-across / h).mean()
    assert mmd2(a, b) == pytest.approx(total / 3)


def test_length_distance() -> None:
    assert length_distance(np.array([1, 1, 2, 3]), np.array([1, 2, 2, 5])) == pytest.approx(0.5)
    assert length_distance(np.array([0, 1]), np.array([2, 3])) == 1
    assert length_distance(np.array([0, 19]), np.array([1, 18]), bins=2) == 0


def test_the_six_diseases_are_found_and_their_codes_are_no_features() -> None:
    cohort = embedded_cohort(100)
    tasks = {task.name: task for task in disease_tasks(cohort.vocabulary)}
    assert set(tasks) == {"diabetes", "kidney disease", "COPD", "asthma", "hypertensive heart", "osteoarthritis"}
    kidney = tasks["kidney disease"]
    assert {cohort.vocabulary.codes[i] for i in kidney.codes} == {"ICD9CM:403", "ICD9CM:404", "ICD9CM:585"}
    assert kidney.features(cohort).shape[1] == 256 - 3 + 3
    assert (
        custom_task("death", ["401"], cohort.vocabulary).label(cohort).sum()
        == cohort.codes[:, cohort.vocabulary.codes.index("ICD9CM:401")].sum()
    )
    meds = Cohort.from_arrays(
        np.ones((1, 3)), ["DIAGNOSIS//ICD//10//E11", "DIAGNOSIS//ICD//9//25000", "OMOP:250"]
    ).vocabulary
    assert disease_tasks(meds)[0].codes == (0, 1)


def test_scores_and_their_intervals(cohorts: tuple[Cohort, Cohort]) -> None:
    task = disease_tasks(cohorts[0].vocabulary)[0]
    found = scores([cohorts[0]], cohorts[1], task)
    assert found["auroc"] > 0.6
    assert found["auroc_interval"][0] < found["auroc"] < found["auroc_interval"][1]
    assert found["aupr_interval"][0] < found["aupr"] < found["aupr_interval"][1]
    assert scores([cohorts[0]], cohorts[1], task) == found  # the same seed, the same trees
    none = Cohort.from_arrays(np.zeros((50, 40)), cohorts[0].vocabulary)
    assert scores([none], cohorts[1], task, intervals=False)["auroc"] == 0.5


def test_bootstrap_is_over_records() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(2000) < 0.3).astype(np.int8)
    guess = np.round(truth + rng.normal(size=2000), 1)  # with ties
    low, high = _intervals(truth, guess, 0)["auroc_interval"]
    assert 0.02 < high - low < 0.07  # the standard error is about 0.011
    from sklearn.metrics import roc_auc_score

    assert low < roc_auc_score(truth, guess) < high


def test_privacy_ends(cohorts: tuple[Cohort, Cohort]) -> None:
    train, other = cohorts
    published = membership(train, other, train)
    assert published["membership_auc"] > 0.8  # type: ignore[operator] # a number
    fresh = membership(train, other, embedded_cohort(1200, seed=7, codes=40, columns=False))
    assert 0.45 < fresh["membership_auc"] < 0.55  # type: ignore[operator]
    low, high = fresh["membership_auc_interval"]  # type: ignore[misc]
    assert low < fresh["membership_auc"] < high  # type: ignore[operator]
    assert attribute_inference(train, train, 20) > 2 * attribute_inference(train, other, 20)
    assert copies(train, train)["exact_copies"] == 1


def test_attribute_inference_by_hand() -> None:
    targets = Cohort.from_arrays(np.array([[1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]))
    published = Cohort.from_arrays(np.array([[1, 1, 0, 1], [1, 0, 0, 1]]))
    # codes 0 and 1 are known: rows 0, 2 get record 0 and rows 1, 3 record 1; code 2 (share 1/4) is never guessed, and
    # code 3 (share 1/4) is guessed for all four and there for the first
    assert attribute_inference(targets, published, 2) == pytest.approx(2 * 1 / (2 + 4))
    one = 0.25 * np.log(4) + 0.75 * np.log(4 / 3)
    assert attribute_inference(targets, published, 2, entropy=True) == pytest.approx(2 * one / (2 * one + 4 * one))
    constant = Cohort.from_arrays(np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1]]))
    # code 3 is in every record: its presence is no news and weighs nothing
    assert attribute_inference(constant, constant, 1) > 0.5
    assert attribute_inference(constant, published, 1, entropy=True) < attribute_inference(constant, published, 1)


def test_attribute_inference_from_demographics() -> None:
    codes = np.repeat(np.eye(3, dtype=int), 5, axis=0)
    sex = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    rows = Cohort.from_arrays(codes, columns={"sex": sex})
    assert attribute_inference(rows, rows, 0, columns=True) == 1
    assert attribute_inference(rows, rows, 0) == 0  # nothing is known


def test_a_label_left_among_the_features_is_told(cohorts: tuple[Cohort, Cohort]) -> None:
    first = disease_tasks(cohorts[0].vocabulary)[0]
    table = np.concatenate([cohorts[0].codes.toarray(), first.label(cohorts[0])[:, None]], 1)
    copied = Cohort.from_arrays(table, [*cohorts[0].vocabulary.codes, "has_diabetes"])
    with pytest.raises(
        InputError, match="label 'diabetes' is left among the features: code has_diabetes is in exactly"
    ):
        evaluate(copied, copied, {}, sections=["utility"])
    for task in disease_tasks(cohorts[0].vocabulary):
        check_no_leak(task, cohorts[0])


def test_effect_size() -> None:
    found = effect_size(500, 1000, 0.5)
    assert found == pytest.approx({"log_odds_ratio": 0, "cohen_h": 0})
    assert effect_size(731, 1000, 0.5)["log_odds_ratio"] == pytest.approx(1, abs=0.01)
    assert np.isfinite(list(effect_size(0, 100, 0.0).values())).all()


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "medgan"])
def test_baselines_draw_whole_records(name: str) -> None:
    rows = embedded_cohort(600, seed=1, codes=20)
    first, again = (make_baseline(name, steps=20, width=32, seed=0).fit(rows).sample(150, 3) for _ in range(2))  # type: ignore[arg-type] # a literal
    assert len(first) == 150
    assert first.vocabulary == rows.vocabulary
    np.testing.assert_array_equal(first.tokens(), again.tokens())
    rows.vocabulary.layout.check(first.tokens())


def test_gaussian_diffusion_learns_prevalences() -> None:
    rows = Cohort.from_arrays(np.repeat(np.random.default_rng(0).random((2000, 1)) < [0.2, 0.5, 0.8], 2, axis=1))
    made = GaussianDiffusion(width=48, steps=250, learning_rate=4e-3).fit(rows).sample(1000, 0)
    np.testing.assert_allclose(made.dense().mean(0), rows.dense().mean(0), atol=0.12)


def test_medgan_is_no_constant() -> None:
    rows = embedded_cohort(1000, seed=1, codes=20, columns=False)
    made = MedGAN(pretrain=50, steps=50).fit(rows).sample(300, 0)
    assert len(np.unique(made.dense(), axis=0)) > 5


def test_ctgan_is_an_extra() -> None:
    import importlib.util

    rows = embedded_cohort(120, seed=1, codes=5, columns=False)
    if importlib.util.find_spec("ctgan") is None:
        with pytest.raises(InputError, match="needs the extra"):
            make_baseline("ctgan").fit(rows)
    else:
        from d3pm_ehr import CTGAN

        assert len(CTGAN(epochs=1, batch_size=20).fit(rows).sample(30, 0)) == 30


def test_evaluation_always_has_the_two_rows(cohorts: tuple[Cohort, Cohort]) -> None:
    result = evaluate(*cohorts, {"copy": cohorts[0]}, small=200)
    for section in ("fidelity", "privacy", "utility"):
        assert {"held-out real", "copy", "independent Bernoulli"} <= set(result[section]), section
    assert result["privacy"]["training rows themselves"]["membership_auc"] > 0.8
    assert set(result["augmentation"]) >= {"copy", "independent Bernoulli"}
    assert result["records"]["reference"] == 600
    with pytest.raises(InputError, match="another vocabulary"):
        evaluate(*cohorts, {"x": embedded_cohort(10)})
    assert 0 < result["privacy"]["copy"]["attribute_f1_entropy"] <= 1
    for options, words in (({"n": 0}, "n 0"), ({"small": 0}, "small 0"), ({"floor": 1.0}, "floor 1.0")):
        with pytest.raises(InputError, match=words):
            evaluate(*cohorts, {}, **options)
    with pytest.raises(InputError, match="x holds no records"):
        evaluate(*cohorts, {"x": cohorts[0].take(np.arange(0))})
    with pytest.raises(InputError, match="at least 4 held-out"):
        evaluate(cohorts[0], cohorts[1].take(np.arange(3)), {})


def test_prediction_codes_spread_over_the_common_ones(cohorts: tuple[Cohort, Cohort]) -> None:
    codes = prediction_codes(cohorts[0], 5)
    assert len(set(codes.tolist())) == 5
