"""Drawing, ordering and grouping transition times; how rows stand at their own times."""

import pytest
import torch
from dndm_sampler.randomness import CounterUniforms
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.transition_times import (
    balanced_times,
    busiest_first,
    continuous_times,
    count_times,
    discrete_times,
    event_turns,
    in_order,
    transition_times,
    turns,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_core.errors import InputError

times_tables = st.integers(1, 5).flatmap(
    lambda rows: st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=rows, max_size=rows)
    )
)


@pytest.mark.parametrize("name", ["linear", "cosine", "beta:17,4"])
def test_times_follow_their_law(name):
    alphas = TransitionSchedule.parse(name).alphas(12)
    tau = transition_times(alphas, (4000, 10), torch.Generator().manual_seed(0))
    assert (int(tau.min()), int(tau.max())) >= (1, 1)
    found = torch.bincount(tau.flatten(), minlength=13)[1:].double() / tau.numel()
    law = alphas[:-1] - alphas[1:]
    assert ((found - law).abs() / (law * (1 - law) / tau.numel()).sqrt().clamp(min=1e-9)).max() < 4.5


def test_times_refuse_a_table_that_is_no_schedule():
    with pytest.raises(InputError, match="pure noise"):
        transition_times(torch.tensor([1.0, 0.5]), (1, 1))


@given(times_tables)
@settings(max_examples=60, deadline=None)
def test_every_free_position_moves_once_and_rows_are_called_at_their_distinct_times_only(table):
    tau = torch.tensor(table)
    tau = tau[busiest_first(count_times(tau))]
    written = torch.zeros_like(tau)
    calls = torch.zeros(len(tau), dtype=torch.long)
    last = torch.full((len(tau),), 99)
    for rows, t, row, position in turns(tau):
        assert len(t) == rows
        assert bool((t < last[:rows]).all()), "a row goes down in time"
        last[:rows] = t
        assert bool((tau[row, position] == t[row]).all())
        written[row, position] += 1
        calls[:rows] += 1
    assert torch.equal(written, (tau > 0).long())
    assert torch.equal(calls, torch.tensor([len({t for t in row if t > 0}) for row in tau.tolist()]))


def test_event_turns_visit_each_row_at_its_own_steps():
    events = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    seen = [(rows, t.tolist()) for rows, t in event_turns(events)]
    assert seen == [(2, [4, 2]), (1, [2]), (1, [1])]


@given(times_tables)
@settings(max_examples=40, deadline=None)
def test_ordering_keeps_the_times_and_sorts_the_free_positions(table):
    tau = torch.tensor(table)
    for order, falling in (("left_to_right", True), ("right_to_left", False)):
        ordered = in_order(tau, order)
        assert torch.equal(ordered.sort(1).values, tau.sort(1).values)
        assert torch.equal(ordered > 0, tau > 0)
        for row in ordered.tolist():
            free = [t for t in row if t > 0]
            assert free == sorted(free, reverse=falling)


def test_balanced_groups_differ_by_at_most_one_and_keep_the_law_of_a_time():
    rows, length, calls = 6000, 7, 3
    free = torch.ones(rows, length, dtype=torch.bool)
    free[:, 2] = False
    uniforms = CounterUniforms(torch.Generator().manual_seed(0), torch.device("cpu"))
    schedule = TransitionSchedule("beta", a=5, b=3)
    tau = balanced_times(schedule, calls, free, uniforms.grid(1, torch.arange(rows), length + 1))
    assert count_times(tau).unique().tolist() == [calls]
    assert bool((tau[:, 2] == 0).all())
    sizes = [torch.unique(row[row > 0], return_counts=True)[1] for row in tau[:200]]
    assert max(int(size.max() - size.min()) for size in sizes) <= 1
    # alpha(tau) of each position is uniform if tau has its law
    for position in (0, 1, 6):
        u = schedule.alpha(tau[:, position]).sort().values
        assert (u - torch.linspace(0, 1, rows, dtype=torch.float64)).abs().max() < 1.95 / rows**0.5


def test_a_budget_beyond_the_free_positions_is_one_call_each():
    uniforms = CounterUniforms(torch.Generator().manual_seed(0), torch.device("cpu"))
    free = torch.tensor([[True, True, False]])
    tau = balanced_times(TransitionSchedule("linear"), 50, free, uniforms.grid(1, torch.arange(1), 4))
    assert count_times(tau).tolist() == [2]


def test_counter_uniforms_are_uniform_independent_and_do_not_depend_on_other_rows():
    uniforms = CounterUniforms(torch.Generator().manual_seed(3), torch.device("cpu"))
    grid = uniforms.grid(0, torch.arange(400), 500)
    assert float(grid.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(grid.var()) == pytest.approx(1 / 12, abs=0.001)
    correlations = torch.corrcoef(grid[:40]).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 0.25
    assert torch.equal(uniforms.grid(0, torch.tensor([7]), 500)[0], grid[7])
    assert not torch.equal(uniforms.grid(1, torch.tensor([7]), 500)[0], grid[7])


def test_continuous_times_are_in_the_unit_interval_and_distinct():
    tau = continuous_times(TransitionSchedule("cosine"), torch.rand(50, 200, dtype=torch.float64))
    assert float(tau.min()) > 0
    assert float(tau.max()) <= 1
    assert count_times(tau).tolist() == [200] * 50


def test_extreme_uniforms_stay_in_range():
    u = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    assert discrete_times(TransitionSchedule("beta", a=100, b=4).alphas(10), u).tolist()[0][1] == 10
