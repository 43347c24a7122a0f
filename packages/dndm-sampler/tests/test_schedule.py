"""Schedules and the law of the transition time."""

import json
import math

import pytest
import torch
from dndm_sampler.schedule import TransitionSchedule, check_alphas
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_core.errors import InputError

NAMED = ["linear", "cosine", "cosine2", "beta:5,3", "beta:17,4", "beta:0.5,0.5", "official_cosine"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.25, 0.25, 0.25, 0.25]),
        ("cosine", [0.0761, 0.2168, 0.3244, 0.3827]),
        ("cosine2", [0.1464, 0.3536, 0.3536, 0.1464]),
    ],
)
def test_pmf_on_four_steps_has_the_reference_values(name, expected):
    assert TransitionSchedule(name).pmf(4).tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("name", [*NAMED, "official_linear_lambda"])
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_pmf_is_a_probability_law(name, steps):
    pmf = TransitionSchedule.parse(name).pmf(steps)
    assert len(pmf) == steps
    assert float(pmf.min()) >= 0
    assert float(pmf.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", NAMED)
def test_quantile_inverts_the_distribution_function(name):
    schedule = TransitionSchedule.parse(name)
    v = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert (1 - schedule.alpha(schedule.quantile(v)) - v).abs().max() < 1e-9


def test_a_beta_law_with_a_table_and_a_function_agree():
    table = TransitionSchedule("beta", a=5, b=3)
    function = TransitionSchedule(lambda u: table.alpha(u))
    given = TransitionSchedule(table.alphas(20).tolist())
    assert torch.allclose(function.pmf(20), table.pmf(20))
    assert torch.allclose(given.pmf(20), table.pmf(20))


def test_official_linear_lambda_restores_most_in_the_first_steps():
    pmf = TransitionSchedule("official_linear_lambda").pmf(1000)
    expected = float((1 - (1 - pmf) ** 100).sum())
    assert expected == pytest.approx(55.4, abs=0.05)


def test_alphas_from_a_file(tmp_path):
    path = tmp_path / "alphas-é.json"
    path.write_text(json.dumps([1, 0.7, 0.2, 0]))
    assert TransitionSchedule.parse(f"@{path}").pmf(3).tolist() == pytest.approx([0.3, 0.5, 0.2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransitionSchedule("sigmoid"), "there is no 'sigmoid'"),
        (lambda: TransitionSchedule("beta"), "a > 0 and b > 0"),
        (lambda: TransitionSchedule("beta", a=-1, b=2), "a = -1"),
        (lambda: TransitionSchedule.parse("beta:1"), "beta:A,B"),
        (lambda: TransitionSchedule.parse("beta:x,y"), "beta:A,B"),
        (lambda: TransitionSchedule([1, 0.5, 0.02]), r"alphas\[-1\] = 0.02: the schedule has not reached pure noise"),
        (lambda: TransitionSchedule([0.9, 0.5, 0.0]), r"alphas\[0\] = 0.9"),
        (lambda: TransitionSchedule([1, 0.2, 0.5, 0.0]), "must not increase"),
        (lambda: TransitionSchedule([1, math.nan, 0.0]), "finite"),
        (lambda: TransitionSchedule([1.0]), "at least two"),
        (lambda: TransitionSchedule(lambda u: 1 + 0 * u), r"alphas\[-1\] = 1"),
        (lambda: TransitionSchedule("linear").pmf(0), "num_steps must be at least 1, got 0"),
        (lambda: TransitionSchedule("official_linear_lambda").quantile(torch.tensor([0.5])), "finite number of steps"),
    ],
)
def test_bad_schedules_are_refused_by_name(make, message):
    with pytest.raises(InputError, match=message):
        make()


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_falling_table_is_a_schedule(drops):
    alphas = torch.tensor([1.0, *(1 - torch.tensor(drops, dtype=torch.float64).cumsum(0) / sum(drops)).tolist()])
    alphas[-1] = 0
    check_alphas(alphas)
    assert TransitionSchedule(alphas).pmf(len(drops)).tolist() == pytest.approx(
        [d / sum(drops) for d in drops], abs=1e-6
    )
