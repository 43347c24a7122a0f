"""Exact laws: the reference table, and the properties P1 to P7 that hold to the last digits."""

import pytest
import torch
from dndm_sampler.baselines import change_bounds, posterior
from dndm_sampler.enumeration import exact_problem, markov_chain_law, total_variation
from dndm_sampler.reproduce.exact import reference_problem
from dndm_sampler.schedule import TransitionSchedule
from shared_core.errors import InputError

LINEAR = TransitionSchedule("linear")
TABLE = {  # T: absorbing, uniform D3PM, uniform DNDM, + LOO, version 2
    1: (0.697, 0.697, 0.697, 0.697, 0.697),
    2: (0.391, 0.464, 0.545, 0.562, 0.480),
    4: (0.207, 0.228, 0.452, 0.451, 0.313),
    8: (0.106, 0.096, 0.406, 0.380, 0.241),
    16: (0.054, 0.041, 0.386, 0.341, 0.213),
}


@pytest.fixture(scope="module")
def absorbing():
    return reference_problem("absorbing")


@pytest.fixture(scope="module")
def uniform():
    return reference_problem("multinomial")


@pytest.mark.parametrize("steps", TABLE)
def test_distances_have_the_reference_values(absorbing, uniform, steps):
    laws = (
        absorbing.dndm(LINEAR, steps),
        uniform.ancestral(LINEAR, steps),
        uniform.dndm(LINEAR, steps),
        uniform.dndm(LINEAR, steps, loo=True),
        uniform.dndm(LINEAR, steps, refresh=True),
    )
    assert [total_variation(absorbing.data, law) for law in laws] == pytest.approx(TABLE[steps], abs=6e-4)


@pytest.mark.parametrize("name", ["linear", "cosine", "beta:5,3"])
def test_absorbing_dndm_has_the_law_of_ancestral_sampling(absorbing, name):
    schedule = TransitionSchedule.parse(name)
    for steps in (1, 3, 16):
        assert total_variation(absorbing.dndm(schedule, steps), absorbing.ancestral(schedule, steps)) < 3e-15


def test_the_equality_holds_for_any_denoiser_also_one_that_depends_on_time():
    weights = torch.randn(3**3 * 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoiser(x, t):
        place = (x * torch.tensor([9, 3, 1])).sum(1, keepdim=True) * 3 + torch.arange(3)
        return weights[place] * (1 + 3 * t[:, None, None])

    data = torch.rand(2, 2, 2, dtype=torch.float64)
    problem = exact_problem(data / data.sum(), "absorbing", denoiser)
    schedule = TransitionSchedule("cosine2")
    ancestral = problem.ancestral(schedule, 4)
    assert total_variation(problem.dndm_by_times(schedule, 4), ancestral) < 3e-15
    assert total_variation(problem.dndm(schedule, 4), ancestral) < 3e-15


def test_continuous_time_reproduces_the_data_law(absorbing):
    assert total_variation(absorbing.data, absorbing.continuous()) < 1e-15


def test_balanced_groups_beat_independent_times_at_two_calls(absorbing):
    balanced = total_variation(absorbing.data, absorbing.balanced(2))
    assert balanced == pytest.approx(0.310, abs=5e-4)
    assert balanced < total_variation(absorbing.data, absorbing.dndm(LINEAR, 2))


@pytest.mark.parametrize("name", ["linear", "cosine", "beta:5,3"])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_two_equal_bits_differ_with_half_the_collision_probability(name, steps):
    schedule = TransitionSchedule.parse(name)
    problem = exact_problem(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64), "absorbing")
    law = problem.dndm(schedule, steps).view(2, 2)
    assert float(law[0, 1] + law[1, 0]) == pytest.approx(0.5 * float((schedule.pmf(steps) ** 2).sum()), abs=1e-14)


def test_one_token_multinomial_law_is_the_closed_form_and_loo_makes_it_exact():
    data = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    problem = exact_problem(data, "multinomial")
    steps, v = 7, 3
    alphas, pmf = LINEAR.alphas(steps), LINEAR.pmf(steps)
    law = torch.zeros(3, dtype=torch.float64)
    for t in range(1, steps + 1):
        alpha = float(alphas[t])
        for w in range(v):
            for a in range(v):
                top = alpha * (a == w) + (1 - alpha) / v
                law[a] += pmf[t - 1] / v * data[a] * top / (alpha * data[w] + (1 - alpha) / v)
    assert torch.allclose(problem.dndm(LINEAR, steps), law, atol=1e-14)
    assert total_variation(law, data) > 0.01
    assert total_variation(problem.dndm(LINEAR, steps, loo=True), data) < 1e-14


def test_a_beta_law_read_as_an_index_is_worse_than_told_its_noise_level(uniform):
    beta = TransitionSchedule("beta", a=17, b=4)
    index = total_variation(uniform.data, uniform.dndm(beta, 50, loo=True, train_schedule=LINEAR))
    matched = total_variation(uniform.data, uniform.dndm(beta, 50, loo=True))
    assert (index, matched) == pytest.approx((0.560, 0.346), abs=1e-3)


@pytest.mark.parametrize("name", ["linear", "cosine", "beta:5,3"])
def test_the_thinning_bound_is_the_largest_probability_of_a_change(name):
    v, alphas = 4, TransitionSchedule.parse(name).alphas(9)
    q = torch.full((v,), 1 / v, dtype=torch.float64)
    x, x0 = (grid.flatten() for grid in torch.meshgrid(torch.arange(v), torch.arange(v), indexing="ij"))
    for t, bound in enumerate(change_bounds(alphas, v), start=1):
        law = posterior(x, x0, alphas[t - 1].expand(len(x)), alphas[t].expand(len(x)), q)
        change = 1 - law.gather(1, x[:, None])[:, 0]
        assert float(change.max()) == pytest.approx(float(bound), abs=1e-12)


def test_the_posterior_at_the_first_step_is_the_prediction():
    x, x0 = torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0])
    alphas = LINEAR.alphas(5)
    q = torch.full((3,), 1 / 3, dtype=torch.float64)
    law = posterior(x, x0, alphas[0].expand(3), alphas[1].expand(3), q)
    assert torch.allclose(law, torch.nn.functional.one_hot(x0, 3).double())


@pytest.mark.parametrize(
    ("data", "noise", "message"),
    [
        (torch.ones(2, 3) / 6, "absorbing", "same length"),
        (torch.ones(2, 2), "absorbing", "sum to 1"),
        (torch.ones([2] * 12) / 2**12, "absorbing", "too many to list"),
        (torch.ones(2) / 2, "gaussian", "absorbing or multinomial"),
    ],
)
def test_bad_problems_are_refused(data, noise, message):
    with pytest.raises(InputError, match=message):
        exact_problem(data, noise)


def test_markov_chain_law_sums_to_one():
    law = markov_chain_law([0.3, 0.7], [[0.9, 0.1], [0.4, 0.6]], 5)
    assert law.shape == (2,) * 5
    assert float(law.sum()) == pytest.approx(1)
    assert float(law[0, 0, 1, 1, 0]) == pytest.approx(0.3 * 0.9 * 0.1 * 0.6 * 0.4)
