"""The number of calls before any is made."""

import pytest
import torch
from dndm_sampler.nfe import expected_nfe, nfe_bound, nfe_distribution
from dndm_sampler.schedule import TransitionSchedule
from shared_core.errors import InputError

TABLE = {
    (25, 24): {"linear": 15.615, "cosine": 14.454, "beta:5,3": 12.403, "beta:17,4": 8.034, "beta:100,4": 2.542},
    (50, 24): {"linear": 19.211, "cosine": 18.348, "beta:5,3": 16.723, "beta:17,4": 12.393, "beta:100,4": 4.487},
    (1000, 24): {"linear": 23.726, "cosine": 23.663, "beta:5,3": 23.534, "beta:17,4": 23.065, "beta:100,4": 20.042},
    (1000, 256): {
        "linear": 225.957,
        "cosine": 219.906,
        "beta:5,3": 208.104,
        "beta:17,4": 172.276,
        "beta:100,4": 72.490,
    },
}


@pytest.mark.parametrize("sizes", TABLE)
def test_expected_calls_have_the_reference_values(sizes):
    for name, value in TABLE[sizes].items():
        assert expected_nfe(TransitionSchedule.parse(name), *sizes) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("name", ["linear", "cosine2", "beta:17,4"])
@pytest.mark.parametrize(("steps", "length"), [(1, 5), (10, 4), (50, 24), (1000, 64)])
def test_the_law_of_calls_sums_to_one_and_has_the_expected_mean(name, steps, length):
    schedule = TransitionSchedule.parse(name)
    law = nfe_distribution(schedule, steps, length)
    assert float(law.pmf.sum()) == pytest.approx(1, abs=1e-12)
    assert law.mean == pytest.approx(expected_nfe(schedule, steps, length), abs=1e-9)
    assert law.mean <= nfe_bound(steps, length) + 1e-9


def test_the_law_of_calls_for_uniform_times_is_the_occupancy_law():
    steps, length = 10, 6
    law = torch.zeros(length + 1, dtype=torch.float64)
    law[0] = 1
    for _ in range(length):
        k = torch.arange(length + 1)
        law = law * k / steps + torch.cat([torch.zeros(1), (law * (1 - k / steps))[:-1]])
    found = nfe_distribution(TransitionSchedule("linear"), steps, length).pmf
    assert torch.allclose(found, law, atol=1e-14)


def test_batches_per_row_shared_and_lockstep():
    linear = TransitionSchedule("linear")
    assert nfe_distribution(linear, 1000, 64, 16, "shared").mean == pytest.approx(62.025, abs=1e-3)
    assert nfe_distribution(linear, 1000, 64, 16, "per_row").mean == pytest.approx(63.887, abs=1e-3)
    small = nfe_distribution(linear, 100, 8, 4, "lockstep").mean
    assert small == pytest.approx(100 * (1 - 0.99**32), abs=1e-9)


def test_continuous_time_costs_one_call_a_position():
    law = nfe_distribution(TransitionSchedule("linear"), None, 12, 3)
    assert (law.mean, law.std, law.quantile(0.5)) == (12, 0, 12)
    assert expected_nfe(TransitionSchedule("cosine"), None, 12) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((10, 0), "length"), ((0, 5), "num_steps"), ((10, 5, 0), "batch_size must be at least 1")],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        nfe_distribution(TransitionSchedule("linear"), *arguments)
