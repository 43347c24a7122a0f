"""Reference values computed independently, met to their digits."""

import math

import pytest
from ctmc_bounds import (
    ConstantBias,
    IsingRing,
    Marginals,
    Midpoint,
    Thinning,
    TimeFrozen,
    certified_bound,
    constant,
    constant_bias_score_term,
    curie_weiss,
    exp_const,
    girsanov_terms,
    kl,
    make_sampler,
    optimal_schedule,
    tv,
    two_point,
)
from ctmc_bounds.spec import mix, product, ramps


def digits(value, printed):
    """Whether `value` rounds to the printed figure."""
    mantissa = printed.lower().split("e")[0].replace(".", "").lstrip("0")
    return float(f"{value:.{len(mantissa) - 1}e}") == pytest.approx(float(printed), rel=1e-12)


MIX = {
    16: ("6.0176e-3", "1.0470e-4", "1.2175e-2", "9.76e-2"),
    32: ("1.5431e-3", "6.7831e-6", "3.3236e-3", "1.756e-2"),
    64: ("3.8955e-4", "4.3002e-7", "8.6798e-4", "3.707e-3"),
    128: ("9.77e-5", "2.70e-8", "2.214e-4", "8.50e-4"),
}
ISING = {
    16: ("1.4814e-2", "2.3049e-4"),
    32: ("3.7766e-3", "1.4890e-5"),
    64: ("9.4992e-4", "9.4174e-7"),
    128: ("2.378e-4", "5.90e-8"),
}


@pytest.mark.parametrize("N", MIX)
@pytest.mark.parametrize("representation", ["enumerated", "counts"])
def test_step_size_mixture(mix6, grid, N, representation):
    paper, middle, path, closed = MIX[N]
    frozen = TimeFrozen(grid(N))
    assert digits(frozen.law(mix6, init="exact", representation=representation).kl, paper)
    assert digits(Midpoint(grid(N)).law(mix6, init="exact", representation=representation).kl, middle)
    assert digits(girsanov_terms(mix6, frozen, init="exact", representation=representation).total, path)
    assert digits(certified_bound(grid(N), Marginals(mix6), "exact").total, closed)


@pytest.mark.parametrize("N", ISING)
def test_step_size_ising(ising6, grid, N):
    paper, middle = ISING[N]
    assert digits(TimeFrozen(grid(N)).law(ising6, init="exact").kl, paper)
    assert digits(Midpoint(grid(N)).law(ising6, init="exact").kl, middle)


def test_dimension_mixture_counts(grid):
    paper = [TimeFrozen(grid(64)).law(mix(d), init="exact").kl for d in (64, 128, 256)]
    assert [digits(v, p) for v, p in zip(paper, ("8.382e-3", "1.7036e-2", "3.4150e-2"), strict=True)] == [True] * 3
    middle = [Midpoint(grid(64)).law(mix(d), init="exact").kl for d in (64, 128, 256)]
    assert [digits(v, p) for v, p in zip(middle, ("6.39e-6", "1.217e-5", "2.387e-5"), strict=True)] == [True] * 3


def test_dimension_at_256_steps(grid):
    assert digits(TimeFrozen(grid(256)).law(mix(256), init="exact").kl, "2.1396e-3")
    assert digits(Midpoint(grid(256)).law(mix(256), init="exact").kl, "9.36e-8")


def slope(d, e, a, b):
    return math.log(b / a) / math.log(e / d)


def test_dimension_slopes_of_other_families(grid):
    values = {d: TimeFrozen(grid(64)).law(IsingRing(d), init="exact").kl for d in (6, 8, 10)}
    assert round(slope(6, 8, values[6], values[8]), 2) == 0.90
    assert round(slope(8, 10, values[8], values[10]), 2) == 0.98
    values = {d: TimeFrozen(grid(64)).law(two_point(d), init="exact").kl for d in (8, 16, 32, 64)}
    assert [round(slope(d, 2 * d, values[d], values[2 * d]), 2) for d in (8, 16, 32)] == [1.03, 1.01, 1.00]
    values = {d: TimeFrozen(grid(64)).law(curie_weiss(d, 1.3), init="exact").kl for d in (8, 16, 32, 64)}
    assert [round(slope(d, 2 * d, values[d], values[2 * d]), 2) for d in (8, 16, 32)] == [1.10, 1.10, 1.16]
    values = {d: TimeFrozen(grid(64)).law(curie_weiss(d, 0.5), init="exact").kl for d in (8, 16, 32, 64)}
    assert 0.25 < slope(8, 16, values[8], values[16]) < 0.35
    assert 0.05 < slope(32, 64, values[32], values[64]) < 0.15


def test_product_data_scale_exactly_with_d(grid):
    one, two = (TimeFrozen(grid(16)).law(product(d), init="exact").kl for d in (1, 2))
    assert two / one == pytest.approx(2, abs=1e-12)
    enumerated = TimeFrozen(grid(16)).law(product(2), init="exact", representation="enumerated").kl
    assert enumerated == pytest.approx(two, rel=1e-10)


def test_early_stopping_two_point_data(grid):
    law = two_point(6)
    assert digits(TimeFrozen(grid(16)).law(law, init="exact").kl, "3.37e-2")
    assert digits(TimeFrozen(constant(6, 0.01, 16)).law(law, init="exact").kl, "5.28e-1")
    assert digits(TimeFrozen(grid(64)).law(law, init="exact").kl, "1.94e-3")
    assert digits(TimeFrozen(constant(6, 0.01, 64)).law(law, init="exact").kl, "1.00e-1")


@pytest.mark.parametrize(
    ("delta", "distance", "steps", "value"),
    [(0.1, ".253607", 72, "2.57e-3"), (0.01, ".0294817", 94, "9.33e-4"), (0.001, ".00299476", 116, "2.14e-4")],
)
def test_early_stopping_cost_of_early_stopping(delta, distance, steps, value):
    law = two_point(6)
    marginals = Marginals(law)
    assert digits(tv(marginals.probabilities(0.0), marginals.probabilities(delta)), distance)
    schedule = exp_const(6, delta, c=0.1)
    assert steps == schedule.N
    assert digits(TimeFrozen(schedule).law(law, init="exact").kl, value)


def test_early_stopping_full_support_without_early_stopping(mix6):
    for N, value, bound in ((32, "6.985e-3", "8.72e-3"), (64, "1.770e-3", "2.28e-3"), (128, "4.442e-4", "5.82e-4")):
        sampler = TimeFrozen(constant(6, 0, N))
        assert digits(girsanov_terms(mix6, sampler).total, bound)
        # printed as 6.985e-3, computed 6.9845e-3: the last digit is a tie
        assert sampler.law(mix6).kl == pytest.approx(float(value), abs=6e-7)


def test_other_dependences_horizon_and_alphabet(mix6, grid):
    found = [TimeFrozen(constant(T, 0, 10 * T)).law(mix6).kl for T in (1, 2, 3, 4)]
    assert [digits(v, p) for v, p in zip(found, ("3.374e-3", "2.037e-3", "2.0126e-3", "2.0122e-3"), strict=True)] == [
        True
    ] * 4
    found = [TimeFrozen(grid(64)).law(ramps(3, S), init="exact").kl for S in (2, 4, 8, 16)]
    assert [digits(v, p) for v, p in zip(found, ("2.41e-5", "7.56e-5", "1.25e-4", "1.59e-4"), strict=True)] == [
        True
    ] * 4


def test_schedules(mix6, ising6):
    rows = [
        (mix6, ("1.70e-3", "3.90e-4", "7.86e-5")),
        (ising6, ("8.19e-3", "9.50e-4", "3.06e-4")),
        (two_point(6), ("1.00e-1", "1.94e-3", "1.09e-3")),
    ]
    for law, printed in rows:
        grids = constant(6, 0.01, 64), exp_const(6, 0.01, 64), optimal_schedule(law, 6, 0.01, 64)
        assert [digits(TimeFrozen(g).law(law, init="exact").kl, p) for g, p in zip(grids, printed, strict=True)] == [
            True
        ] * 3


def test_state_frozen_samplers_have_other_laws(mix6, grid):
    for name, printed in (("paper", "6.02e-3"), ("euler", "9.29e-3"), ("first_jump", "1.44e-2"), ("reject", "2.08e-2")):
        assert digits(make_sampler(name, grid(16)).law(mix6, init="exact").kl, printed)


def test_mixing_constants(mix6):
    marginals = Marginals(mix6)
    pi = marginals.space.uniform()
    assert digits(kl(marginals.probabilities(6), pi), "1.6e-11")
    assert digits(mix6.ctmc.mixing_bound(6), "1.0e-2")
    assert digits(kl(marginals.probabilities(2), pi), "1.43e-4")
    assert digits(Thinning(exp_const(2, 0.01, 4)).law(mix6).kl, "1.15e-7")


def test_a_common_factor_makes_the_bound_loose(ising6, grid):
    sampler, biased = TimeFrozen(grid(64)), ConstantBias(ising6, 0.1)
    terms = girsanov_terms(ising6, sampler, biased, "exact")
    assert digits(terms.total, ".0925")
    assert digits(sampler.law(ising6, biased, "exact").kl, "1.2e-4")
    assert terms.score == pytest.approx(constant_bias_score_term(ising6.ctmc, 6, 0.01, 0.1), rel=1e-12)


def test_largest_scores_of_mix5():
    marginals = Marginals(mix(5))
    space = marginals.space
    there = space.multiplicity > 0
    found = [math.exp(float(space.log_scores(marginals.log_q(t))[there].max())) for t in (0, 0.1, 0.5, 1)]
    assert [digits(v, p) for v, p in zip(found, ("3.664", "3.039", "1.810", "1.283"), strict=True)] == [True] * 4


def test_thinning_candidates_and_gillespie_jumps(mix6, grid):
    assert digits(Thinning(grid(16)).expected_calls(mix6.ctmc), "45.616")
    assert mix6.ctmc.expected_jumps(6, 0.01) == pytest.approx(17.97)
