"""The laws: where descent ends, from the data alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leaky_relu_bias import (
    TwoLayerNet,
    check_assumptions,
    continue_to,
    dual,
    fit,
    frozen_pattern,
    gaussian,
    judge,
    limits,
    near_orthogonal,
    normalized_gd,
    orthogonal,
    stable_rank,
    training_set,
)
from leaky_relu_bias.assumptions import diagonal_dominance
from leaky_relu_bias.dual import dual_variables
from leaky_relu_bias.max_margin import orthonormal_joint_stable_rank, orthonormal_relu_stable_rank
from leaky_relu_bias.network import block_signs
from shared_core import InputError, RunError


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_orthonormal_data_have_closed_forms(gamma):
    n, m, eta = 8, 5, 2.0
    X, y = orthogonal(n, 30, seed=0)
    predicted = limits(X, y, TwoLayerNet(m, gamma), eta=eta)
    assert predicted.kind == "equal-margins"
    assert eta * predicted.t_times_loss / (m * n) == pytest.approx(1 / (1 + gamma**2), rel=1e-12)
    assert predicted.margin * math.sqrt(m * n) == pytest.approx(math.sqrt(1 + gamma**2), rel=1e-12)
    assert predicted.sr_joint == pytest.approx(orthonormal_joint_stable_rank(gamma), rel=1e-12)
    assert predicted.sr_pos == pytest.approx(1, abs=1e-12)
    assert predicted.pattern_self_consistent


@pytest.mark.parametrize(("gamma", "value"), [(0.5, 1.1111), (0.1, 1.6694)])
def test_joint_rank_formula_has_the_reference_values(gamma, value):
    assert orthonormal_joint_stable_rank(gamma) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("points", [5, 10, 20])
def test_relu_block_rank_law_for_random_masks(points):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 2, (40_000, points), generator=generator).double()
    # each neuron keeps a random half of its class: rows are masks, weighted by alpha = K^{-1} 1
    alpha = torch.linalg.solve(torch.diag((masks**2).mean(0)), torch.ones(points, dtype=torch.float64))
    assert float(stable_rank(masks * alpha)) == pytest.approx(orthonormal_relu_stable_rank(points), rel=5e-3)


def test_relu_on_orthogonal_points_is_predicted_from_the_initial_weights():
    X, y = orthogonal(8, 40, seed=1)
    net = TwoLayerNet(30, 0.0, 1e-4, seed=3)
    predicted = limits(X, y, net)
    run = fit(X, y, net, steps=100_000)
    assert float(run.column("t_times_loss")[-1, 0]) == pytest.approx(predicted.t_times_loss, rel=1e-3)
    assert float(run.column("sr_pos")[-1, 0]) == pytest.approx(predicted.sr_pos, rel=1e-3)


def test_loss_and_margins_of_a_long_run_meet_the_limits(points, long_run):
    predicted = limits(*points, TwoLayerNet(m=50, gamma=0.5))
    assert float(long_run.column("t_times_loss")[-1, 0]) == pytest.approx(predicted.t_times_loss, rel=1e-3)
    gaps = long_run.margins[-1, 0].max() - long_run.margins[-1, 0].min()
    assert float(gaps) == pytest.approx(float(predicted.log_gaps().max()), rel=1e-3)
    assert float(long_run.column("sr_joint")[-1, 0]) == pytest.approx(predicted.sr_joint, rel=5e-3)
    far = continue_to(long_run, 10_000.0)
    assert float(far.column("normalized_margin_min")[-1, 0]) == pytest.approx(predicted.margin, rel=1e-4)


def test_step_size_scales_the_loss_rate_only(points):
    slow, fast = (limits(*points, TwoLayerNet(m=50), eta=eta) for eta in (1.0, 10.0))
    assert slow.t_times_loss == pytest.approx(10 * fast.t_times_loss)
    assert slow.margin == pytest.approx(fast.margin)


def test_chatter_is_predicted_for_a_small_slope():
    X, y = gaussian(10, 784, seed=0)
    net = TwoLayerNet(50, 0.1, 1e-4, 0)
    predicted = limits(X, y, net)
    assert predicted.sliding > 0
    assert not predicted.pattern_self_consistent
    run = normalized_gd(X, y, net, steps=10_000)
    assert float(run.column("sr_joint")[-1, 0]) == pytest.approx(predicted.sr_joint, rel=1e-3)
    assert float(run.column("normalized_margin_min")[-1, 0]) == pytest.approx(predicted.margin, rel=1e-3)


def test_relu_with_chatter_meets_the_limit_of_its_own_class_pattern():
    X, y = gaussian(6, 200, seed=0)
    net = TwoLayerNet(20, 0.0, 1e-4, 0)
    assert limits(X, y, net).kind == "not applicable (chatter)"
    run = fit(X, y, net, steps=50_000)
    predicted = limits(X, y, net, pattern=frozen_pattern(run.engine)[0])
    assert float(run.column("t_times_loss")[-1, 0]) == pytest.approx(predicted.t_times_loss, rel=3e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), rank=st.integers(1, 12))
def test_dual_satisfies_its_optimality_conditions(seed, n, rank):
    generator = torch.Generator().manual_seed(seed)
    F = torch.randn(n, rank, generator=generator, dtype=torch.float64) + 0.5
    K = F @ F.T
    alpha, residual = dual_variables(K)
    assert (alpha >= 0).all()
    if residual < 1e-8:  # an optimum: margins at least 1, exactly 1 on the support
        assert (K @ alpha >= 1 - 1e-6).all()
        assert float(((K @ alpha - 1) * alpha).abs().max()) < 1e-5 * max(1.0, float(alpha.max()))


def test_points_in_conflict_are_reported_as_not_separable():
    X, y = gaussian(30, 2, seed=0)
    assert limits(X, y, TwoLayerNet(3, 0.5)).kind.startswith("not applicable")


def test_a_singular_kernel_has_a_solution():
    X, y = gaussian(4, 50, seed=0)
    X, y = torch.cat([X, X[:1]]), torch.cat([y, y[:1]])  # the same point twice, one label
    predicted = limits(X, y, TwoLayerNet(3, 0.5))
    assert predicted.applicable
    alone = limits(X[:4], y[:4], TwoLayerNet(3, 0.5), eta=1.0)
    assert predicted.margin == pytest.approx(alone.margin, rel=1e-9)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_parallel_points_of_one_class_meet_their_limits(factor):
    X, y = gaussian(4, 50, seed=0)
    X, y = torch.cat([X, factor * X[:1]]), torch.cat([y, y[:1]])
    net = TwoLayerNet(5, 0.5)
    predicted = limits(X, y, net)
    assert predicted.kind == ("equal-margins" if factor == 1 else "support-vectors 4 of 5")
    assert "alpha is one of several" in predicted.reason
    run = normalized_gd(X, y, net, steps=10_000)
    measured = run.margins[-1, 0] / run.column("w_fro")[-1, 0]
    torch.testing.assert_close(measured, predicted.margins, rtol=2e-3, atol=0)


# seeds whose neurons all end active on their own class, as the prediction takes it (of ten, two do not)
@pytest.mark.parametrize("seed", [0, 3, 7])
def test_neurons_may_end_active_on_points_of_the_other_class(seed):
    # a common direction and unequal norms: far from orthogonal, slopes on the other class end at gamma, between, or 1
    X, y = gaussian(5, 12, seed)
    scale = torch.linspace(0.5, 2, 5, dtype=torch.float64)[:, None]
    X = scale * (X + 0.15 * torch.ones(12, dtype=torch.float64))
    net = TwoLayerNet(8, 0.3, seed=seed)
    predicted = limits(X, y, net)
    assert predicted.applicable
    run = normalized_gd(X, y, net, steps=100_000)
    measured = run.margins[-1, 0] / run.column("w_fro")[-1, 0]
    torch.testing.assert_close(measured, predicted.margins, rtol=3e-3, atol=0)
    assert float(run.column("sr_joint")[-1, 0]) == pytest.approx(predicted.sr_joint, rel=3e-3)


def test_a_limit_beyond_the_solver_is_said_not_raised(monkeypatch):
    monkeypatch.setattr(dual, "LARGEST", 5)
    predicted = limits(*gaussian(10, 784, seed=0), TwoLayerNet(50, 0.1))
    assert predicted.kind == "not applicable (no solution)"


def test_limits_say_which_pattern_they_take(points):
    assert limits(*points).pattern.startswith("taken: every neuron")
    assert limits(*orthogonal(4, 9), TwoLayerNet(9, 0.0)).pattern == "as in the initial weights"
    assert limits(*points, pattern=torch.ones(2, 10)).pattern == "as given"


def test_dominance_below_half_implies_equal_margins_for_unequal_norms():
    # one long point beside four short ones: by rows |K_ik| / K_ii stays at 0.4, and yet it is no support vector
    G = torch.eye(5, dtype=torch.float64)
    G[0, 0], G[0, 1:], G[1:, 0] = 10, 0.4, 0.4
    data = training_set(torch.linalg.cholesky(G), [1] * 5)
    assert diagonal_dominance(data, 0.5) == pytest.approx(1.6)
    assert not limits(data, None).equal_margins


def test_dead_points_are_reported():
    X, y = orthogonal(40, 60, seed=0)
    predicted = limits(X, y, TwoLayerNet(1, 0.0, 1e-3, seed=0))
    assert predicted.kind == "not applicable (dead point)"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), gamma=st.floats(0.01, 0.99), ratio=st.floats(2.0, 20.0))
def test_ratio_two_implies_dominance_below_half_and_equal_margins(seed, gamma, ratio):
    X, y = near_orthogonal(8, 30, ratio, seed)
    data = training_set(X, y)
    assert data.ratio == pytest.approx(ratio, rel=1e-9)
    assert diagonal_dominance(data, gamma) < 0.5
    # the certificate speaks about the kernel of the ideal pattern
    assert (torch.linalg.solve(_kernel(data, gamma), torch.ones(8, dtype=torch.float64)) > 0).all()


def _kernel(data, gamma):
    same = data.y[:, None] == data.y
    return torch.where(same, 1 + gamma**2, -2 * gamma) * data.gram


def test_continuation_equals_exact_steps(points, long_run):
    short = fit(*points, TwoLayerNet(m=50, gamma=0.5), steps=1000)
    reached = continue_to(short, 5.0)
    assert float((reached.margins[-1] - long_run.margins[-1]).abs().max()) < 1e-7
    ranks = [float(run.column("sr_pos_excess")[-1, 0]) for run in (reached, long_run)]
    assert ranks[0] == pytest.approx(ranks[1], rel=1e-6)


def test_continuation_refuses_a_pattern_that_moves():
    run = fit(*gaussian(10, 100, seed=0), TwoLayerNet(10, 0.0), steps=200)
    with pytest.raises(RunError, match="about to change its sign"):
        continue_to(run, 50.0)


def test_continuation_refuses_what_it_cannot_do(points, long_run):
    with pytest.raises(InputError, match="at most 1e"):
        continue_to(long_run, 1e300)
    with pytest.raises(InputError, match="beyond the run"):
        continue_to(long_run, 3.0)
    with pytest.raises(InputError, match="at least 100 exact steps"):
        continue_to(fit(*points, TwoLayerNet(m=2), steps=10), 5.0)
    with pytest.raises(InputError, match="another clock"):
        continue_to(normalized_gd(*points, TwoLayerNet(m=2), steps=10), 5.0)


def test_normalised_descent_goes_beyond_every_float(points):
    run = normalized_gd(*points, TwoLayerNet(m=50, gamma=0.5), steps=15_000)
    predicted = limits(*points, TwoLayerNet(m=50, gamma=0.5))
    assert -5000 < float(run.column("log10_loss")[-1, 0]) < -1000
    assert float(run.column("normalized_margin_min")[-1, 0]) == pytest.approx(predicted.margin, rel=5e-4)
    assert float(run.column("sr_pos_excess")[-1, 0]) < 1e-8


def test_equal_limits_give_the_verdicts_of_a_covered_run():
    X, y = near_orthogonal(6, 100, 4.0, seed=0)
    net = TwoLayerNet(10, 0.5)
    verdicts = judge(fit(X, y, net, steps=100_000), limits(X, y, net), check_assumptions(X, y, net))
    assert [item.short for item in verdicts] == ["PASS", "PASS", "PASS"]


def test_a_failure_on_uncovered_data_is_not_covered():
    X, y = near_orthogonal(6, 100, 0.6, seed=0)
    net = TwoLayerNet(10, 0.5, sigma0=1.0)
    assumptions = check_assumptions(X, y, net)
    assert not assumptions.covered
    verdicts = judge(fit(X, y, net, steps=20), limits(X, y, net), assumptions)
    assert {item.short for item in verdicts} <= {"NOT COVERED", "PASS"}
    assert any("ratio" in item.note for item in verdicts)


def test_check_reports_every_condition_with_the_constants_given(points):
    strict = check_assumptions(*points, TwoLayerNet(m=50), orthogonality=100.0)
    assert strict["ratio"].passed is False
    assert strict["ratio"].wanted == ">= 100"
    assert strict["relative_learning_rate"].value == pytest.approx(0.2)
    relu = check_assumptions(*points, TwoLayerNet(m=1, gamma=0.0))
    assert relu["active_neurons"].passed is False
    with pytest.raises(InputError, match="constant relative_learning_rate must be > 0"):
        check_assumptions(*points, relative_learning_rate=0.0)


def test_patterns_of_the_wrong_shape_are_refused(points):
    with pytest.raises(InputError, match="pattern must have shape"):
        limits(*points, TwoLayerNet(m=2), pattern=torch.ones(4, 3))
    with pytest.raises(InputError, match="between 0 and 1"):
        limits(*points, TwoLayerNet(m=2), pattern=2 * torch.ones(4, 10))


def test_limit_weights_point_where_the_run_points(points, long_run):
    predicted = limits(*points, TwoLayerNet(m=50, gamma=0.5))
    data = training_set(*points)
    own = torch.where(block_signs(50, data.y)[:, None] == data.y, 1.0, 0.5)
    A = block_signs(50, data.y)[:, None] * own * data.y * predicted.alpha
    W = long_run.engine.weights()[0]
    cosine = float((W * (A @ data.X)).sum() / W.norm() / (A @ data.X).norm())
    assert cosine > 0.999
