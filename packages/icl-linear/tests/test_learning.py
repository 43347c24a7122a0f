import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from icl_linear import (
    Problem,
    Statistics,
    effective_dimension,
    empirical_risk_minimiser,
    excess_risk,
    expected_sgd,
    explicit,
    geometric,
    make_problem,
    max_stable_step,
    risk,
    run_sgd,
    sample_statistics,
    sample_tasks,
    sgd,
    task_bound,
    tasks_needed,
    theorem_step,
)
from icl_linear import sgd_recursion as recursion_module
from icl_linear.expected_run import _start
from icl_linear.schedule import constant, make_schedule
from icl_linear.sgd_recursion import Recursion, State
from shared_core.errors import InputError, RunError


def _scale(problem, n):
    return problem.trace * float(problem.h_tilde(n).sum())


def test_the_briefs_reference_values(small):
    c = _scale(small, 20)
    assert float(expected_sgd(small, 20, constant(0.3 / c, 1)).excess) == pytest.approx(1.10507, abs=1e-5)
    assert float(expected_sgd(small, 20, constant(0.1 / c, 30)).excess) == pytest.approx(0.507934, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "d", "expected"),
    [("iso", 8, (0.686, 0.431, 0.0289)), ("iso", 64, (0.279, 0.277, 0.264)), ("power:2", 8, (0.269, 0.184, 0.0818)),
     ("exp", 8, (0.401, 0.177, 0.0637))],
)  # fmt: skip
def test_the_briefs_learning_curves(kind, d, expected):
    problem = make_problem(kind, d)
    for tasks, value in zip((100, 1000, 10_000), expected, strict=True):
        found = expected_sgd(problem, 50, geometric(theorem_step(problem, 50), tasks)).excess
        assert float(found) == pytest.approx(value, rel=4e-3)


def _enumerated_second_moments(problem, n, gamma, Delta):
    """One step by brute force: E (Delta - gamma e x v^T)^2 averaged over drawn tasks, with its standard error."""
    generator = torch.Generator().manual_seed(5)
    tasks = sample_statistics(problem, n, (400_000,), generator, torch.float64)
    Gamma = Delta + torch.diag(problem.gamma_star(n))
    e = (tasks.x @ Gamma * tasks.v).sum(-1) - tasks.y
    after = (Delta - gamma * e[:, None, None] * tasks.x[:, :, None] * tasks.v[:, None, :]) ** 2
    return after.mean(0), after.std(0) / len(e) ** 0.5


def test_a_step_of_the_recursion_is_a_step_of_sgd_from_any_start(small):
    Delta = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    init = Delta + torch.diag(small.gamma_star(20))
    run = expected_sgd(small, 20, constant(0.1, 1), init=init)
    mean, error = _enumerated_second_moments(small, 20, 0.1, Delta)
    assert ((run.second_moments() - mean) / error).abs().max() < 4.5


def test_many_sampled_runs_follow_the_curve_at_the_trained_and_at_another_length(small):
    schedule = constant(0.1 / _scale(small, 20), 20)
    init = 0.5 * torch.randn(3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    exact = expected_sgd(small, 20, schedule, init=init)
    generator = torch.Generator().manual_seed(1)
    gammas = sgd(small, 20, schedule, generator, runs=4000, init=init, dtype=torch.float64)
    at_n = torch.stack([excess_risk(small, gamma, 20) for gamma in gammas])
    at_5 = torch.stack([risk(small, gamma, 5) for gamma in gammas]) - small.sigma**2
    for values, expected in ((at_n, exact.excess), (at_5, exact.excess_at(5))):
        assert abs(float((values.mean() - expected) / (values.std() / len(values) ** 0.5))) < 4


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 3), st.integers(2, 60))
def test_stepping_matrix_powers_and_grouping_agree(copies, n, batch, steps):
    eigenvalues = torch.tensor([1.0] * copies + [0.4] * 2 + [0.1], dtype=torch.float64)
    problem = Problem(eigenvalues, 0.9, 0.7)
    schedule = constant(max_stable_step(problem, n, batch) / 3, steps)
    grouped = expected_sgd(problem, n, schedule, batch_size=batch)
    alone = expected_sgd(problem, n, schedule, batch_size=batch, grouped=False)
    recursion, state = _start(problem, n, batch, None, False)
    by_map = recursion
    for _ in range(steps):
        state = by_map.step(state, schedule.phases[0][0])
    for other in (alone.excess, recursion.weigh(state, recursion.W)):
        assert torch.allclose(grouped.excess, other, rtol=1e-9)
    assert torch.allclose(grouped.excess_at(3), alone.excess_at(3), rtol=1e-9)
    assert torch.allclose(grouped.second_moments(), alone.second_moments(), rtol=1e-8, atol=1e-14)


def test_matrix_powers_are_the_loop(monkeypatch):
    problem = make_problem("power:2", 6)
    schedule = geometric(theorem_step(problem, 30), 2000)
    powers = expected_sgd(problem, 30, schedule, record=[0, 7, 999, 2000])
    monkeypatch.setattr(recursion_module, "LARGEST_MATRIX", 0)
    loop = expected_sgd(problem, 30, schedule, record=[0, 7, 999, 2000])
    assert torch.allclose(powers.excess, loop.excess, rtol=1e-9)
    assert float(powers.excess[0]) == pytest.approx(float(excess_risk(problem, torch.zeros(6), 30)))
    assert powers.tasks == (0, 7, 999, 2000)


def test_huge_batches_are_gradient_descent_on_the_risk(small):
    schedule = constant(0.2, 15)
    run = expected_sgd(small, 10, schedule, batch_size=10**12)
    weights = small.eigenvalues * small.h_tilde(10)
    left = -small.gamma_star(10) * (1 - 0.2 * weights) ** 15
    assert float(run.excess) == pytest.approx(float(weights @ left**2), rel=1e-9)


def test_a_million_equal_dimensions_are_free():
    run = expected_sgd(Problem(torch.full((1_000_000,), 1e-6)), 50, constant(1.0, 1000))
    assert 0 < float(run.excess) < 1


@pytest.mark.parametrize(("kind", "d", "expected"), [("iso", 20, (0.49, 1.25, 1.56)), ("iso", 5, (0.23, 0.66, 0.95)),
                         ("exp", 10, (0.098, 0.31, 0.45)), ("iso", 1, (0.026, 0.12, 0.21))])  # fmt: skip
def test_the_largest_stable_step_of_the_brief(kind, d, expected):
    problem = make_problem(kind, d)
    for n, value in zip((1, 10, 100), expected, strict=True):
        assert max_stable_step(problem, n) * _scale(problem, n) == pytest.approx(value, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.05, 3), min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 4))
def test_the_largest_stable_step_is_where_the_spectral_radius_is_one(eigenvalues, n, batch):
    problem = Problem(torch.tensor(eigenvalues, dtype=torch.float64), 1.2, 0.6)
    step, recursion = max_stable_step(problem, n, batch), Recursion(problem, n, batch, grouped=False)

    def radius(gamma):
        k = problem.d
        eye = torch.eye(k * k + k, dtype=torch.float64)
        start = State(eye[:, : k * k].reshape(-1, k, k), eye[:, k * k :], torch.zeros(len(eye), k).double())
        after = recursion.step(start, gamma, noise=0.0)
        return float(torch.linalg.eigvals(torch.cat([after.pair.flatten(1), after.same], 1)).abs().max())

    assert radius(step) == pytest.approx(1, abs=1e-6)
    assert radius(step * 1.02) > 1 > radius(step * 0.98)


def test_divergence_is_infinite_never_nan(small):
    run = expected_sgd(small, 5, constant(50 * max_stable_step(small, 5), 3000))
    assert float(run.excess) == math.inf
    assert float(run.excess_at(3)) == math.inf


@pytest.mark.parametrize("steps", [2, 3, 7, 10, 100, 999, 1024, 10_000])
def test_the_geometric_schedule_follows_the_rule(steps):
    rule = [0.3 / 2 ** math.floor(t / (steps / math.log2(steps))) for t in range(steps)]
    assert geometric(0.3, steps).step_sizes() == pytest.approx(rule, rel=1e-15)


def test_other_schedules():
    assert make_schedule("poly:1", 1.0, 3).step_sizes() == pytest.approx([1, 1 / 2, 1 / 3])
    assert explicit([0.1, 0.1, 0.2]).phases == ((0.1, 2), (0.2, 1))
    for kind in ("cosine", "poly:x"):
        with pytest.raises(InputError, match="schedule must be"):
            make_schedule(kind, 1, 3)
    with pytest.raises(InputError, match="at least 2"):
        geometric(0.1, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 12))
def test_blocks_are_sequential_sgd(d, batch, block, steps):
    generator = torch.Generator().manual_seed(d + 10 * batch)
    shape = (2, steps * batch, d)
    v, x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    y = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
    sizes = torch.rand(steps, generator=generator, dtype=torch.float64)
    gamma = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
    found = run_sgd(gamma, Statistics(v, x, y), sizes, batch, block)
    for t in range(steps):
        rows = range(t * batch, (t + 1) * batch)
        errors = [torch.einsum("ri,rij,rj->r", x[:, s], gamma, v[:, s]) - y[:, s] for s in rows]
        gradient = sum(
            e[:, None, None] * x[:, s, :, None] * v[:, s, None, :] for s, e in zip(rows, errors, strict=True)
        )
        gamma = gamma - sizes[t] / batch * gradient
    assert torch.allclose(found, gamma, rtol=1e-8, atol=1e-8 * float(gamma.abs().max()))


def test_the_fast_sampler_has_the_law_of_whole_prompts(small):
    generator = torch.Generator().manual_seed(0)
    fast = sample_statistics(small, 4, (200_000,), generator, torch.float64)
    slow = sample_tasks(small, 4, 200_000, generator).statistics()
    for f in (
        lambda t: t.v[:, 0] ** 2, lambda t: t.v[:, 0] ** 2 * t.v[:, 2] ** 2, lambda t: t.v[:, 1] * t.x[:, 1] * t.y,
        lambda t: (t.v[:, 0] * t.y * t.x[:, 0]) ** 2, lambda t: t.y**2, lambda t: (t.v[:, 1].abs() < 0.3).double(),
    ):  # fmt: skip
        a, b = f(fast), f(slow)
        assert abs(float((a.mean() - b.mean()) / ((a.var() + b.var()) / len(a)) ** 0.5)) < 4.5


def test_designs_pools_and_sparse_tasks_keep_the_second_moments(rotated):
    _, problem = rotated
    generator = torch.Generator().manual_seed(0)
    for design in ("gaussian", "sphere", "gamma"):
        tasks = sample_tasks(problem, 3, 40_000, generator, design=design, nonzero=2)
        covariance = torch.einsum("ti,tj->ij", tasks.x_query, tasks.x_query) / 40_000
        assert (covariance - problem.covariance).abs().max() < 0.08
        assert float((tasks.beta**2).sum(1).mean()) == pytest.approx(4 * 0.49, rel=0.03)
        assert (tasks.beta != 0).sum(1).eq(2).all()
    pool = torch.randn(3, 4, generator=generator)
    drawn = sample_tasks(problem, 3, 50, generator, betas=pool, dtype=torch.float32).beta
    assert len(torch.unique(drawn, dim=0)) == 3
    with pytest.raises(InputError, match="nonzero"):
        sample_tasks(problem, 3, 5, generator, nonzero=9)


def test_the_minimiser_interpolates_few_tasks_and_finds_the_optimum_with_many(small):
    generator = torch.Generator().manual_seed(0)
    few = sample_statistics(small, 20, (5,), generator, torch.float64)
    gamma = empirical_risk_minimiser(few)
    assert torch.allclose((few.x @ gamma * few.v).sum(-1), few.y, atol=1e-8)
    many = sample_statistics(small, 20, (100_000,), generator, torch.float64)
    assert float(excess_risk(small, empirical_risk_minimiser(many), 20)) < 0.01
    with pytest.raises(InputError, match="ridge"):
        empirical_risk_minimiser(few, ridge=-1)


def test_the_bound_and_the_effective_dimension():
    problem = make_problem("power:2", 16)
    assert effective_dimension(problem, 50, 1e12, 1) == 256
    lam, h = problem.eigenvalues, problem.h_tilde(50)
    by_hand = sum(min(1, (30 * 0.2 * float(a * b)) ** 2) for a in lam for b in h)
    assert effective_dimension(problem, 50, 30, 0.2) == pytest.approx(by_hand)
    for kind, d in (("iso", 8), ("iso", 16), ("power:2", 16), ("exp", 16)):
        problem = make_problem(kind, d)
        for tasks in (100, 1000):
            schedule = geometric(theorem_step(problem, 50), tasks)
            ratio = float(expected_sgd(problem, 50, schedule).excess) / task_bound(problem, 50, schedule).total
            assert 0.1 < ratio < 2


def test_the_plan_finds_the_first_number_of_tasks_that_is_enough():
    problem = make_problem("iso", 4)
    found = tasks_needed(problem, 50, 0.2, precision=0)
    schedules = {t: make_schedule("geometric", found.learning_rate, t) for t in (found.tasks, found.tasks - 1)}
    assert float(expected_sgd(problem, 50, schedules[found.tasks]).excess) <= 0.2
    assert float(expected_sgd(problem, 50, schedules[found.tasks - 1]).excess) > 0.2
    with pytest.raises(RunError, match="needs more than 16 steps"):
        tasks_needed(problem, 50, 0.01, most=16)
    with pytest.raises(InputError, match="target"):
        tasks_needed(problem, 50, 0.0)


def test_wrong_shapes_and_counts_are_named(small):
    generator = torch.Generator()
    for call, says in (
        (lambda: expected_sgd(small, 0, constant(0.1, 5)), "at least 1"),
        (lambda: expected_sgd(small, 5, constant(0.1, 5), init=torch.ones(4)), "init must have shape 3"),
        (lambda: expected_sgd(small, 5, constant(0.1, 5), record=[9]), r"record must lie in 0\.\.5"),
        (lambda: sgd(small, 5, constant(0.1, 5), generator, init=torch.ones(2, 2)), "init must have shape 3 x 3"),
        (lambda: sgd(small, 5, constant(0.1, 5), generator, batch_size=0), "batch_size"),
        (lambda: sample_tasks(small, 5, 2, generator, design="cube"), "design must be"),
        (lambda: run_sgd(torch.zeros(1, 3, 3), Statistics(torch.ones(1, 4, 3), torch.ones(1, 5, 3), torch.ones(1, 5)),
                         torch.ones(5)), "tasks.v must have shape 1 x 5 x 3, got 1 x 4 x 3"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            call()
