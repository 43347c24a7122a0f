"""Uniformization with an envelope that adapts; the largest exit rate of each kind of score."""

import pytest
import torch
from ctmc_bounds import (
    CallableScore,
    Clipped,
    ConstantBias,
    EnumeratedSpace,
    LogNormalNoise,
    TableData,
    TimeFrozen,
    UniformCTMC,
    Uniformization,
    constant,
    exp_const,
    make_sampler,
    two_point,
)
from ctmc_bounds.identities import chi_square_limit, chi_square_per_cell
from ctmc_bounds.parametrisation import set_own
from ctmc_bounds.spec import mix, ramps


def many_small_batches(sampler, score, size, batches, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([sampler.sample(size, score, generator).tokens for _ in range(batches)])


def deviation(tokens, law):
    """Standardised chi^2 of tokens, and what it exceeds once in 10,000."""
    space = EnumeratedSpace(2, tokens.shape[1])
    seen = torch.bincount(space.number(tokens), minlength=space.n).double()
    return chi_square_per_cell(seen, law * len(tokens)), chi_square_limit(law * len(tokens), 1e-4)


@pytest.mark.parametrize(("size", "batches"), [(1, 500), (4, 200)])
def test_small_batches_with_an_adaptive_envelope_follow_the_law(dense_generator, size, batches):
    """Redrawing an interval after a violation made states rare that are left quickly: off by 8 in as many draws."""
    data, schedule = two_point(3), constant(2.0, 0.1, 2)
    law = torch.full((8,), 1 / 8, dtype=torch.float64)
    for t, h in schedule.intervals:
        law = law @ torch.matrix_exp(h * dense_generator(data, t))
    sampler = Uniformization(schedule, envelope="adaptive", table=False)
    found, most = deviation(torch.cat([many_small_batches(sampler, data, size, batches, s) for s in range(3)]), law)
    assert found < most


def test_an_adaptive_envelope_serves_a_score_that_nothing_bounds(dense_generator):
    data, schedule = mix(3), constant(1.0, 0.2, 2)
    wild = LogNormalNoise(ConstantBias(data, 0.5), 1.0, 4)
    law = torch.full((8,), 1 / 8, dtype=torch.float64)
    for t, h in schedule.intervals:
        law = law @ torch.matrix_exp(h * dense_generator(data, t, wild))
    sampler = Uniformization(schedule, envelope="adaptive")
    found, most = deviation(many_small_batches(sampler, wild, 5, 200, 0), law)
    assert found < most
    drawn = sampler.sample(20_000, wild, torch.Generator().manual_seed(1))
    found, most = deviation(drawn.tokens, law)
    assert found < most
    assert drawn.notes["candidates"] > drawn.jumps > 0
    assert drawn.notes["raised_envelopes"] > 0


def test_each_sample_has_an_envelope_of_its_own():
    """A neighbour that is left quickly costs the others nothing, and changes nothing of their law."""
    data, sampler = two_point(6), Uniformization(constant(0.5, 0.1, 1), envelope="adaptive", table=False)
    calm = torch.zeros(2000, 6, dtype=torch.long)
    mixed = torch.cat([calm[:1999], torch.tensor([[0, 1, 0, 1, 0, 1]])])
    alone, beside = (
        sampler.sample(2000, data, torch.Generator().manual_seed(0), start).notes["candidates"]
        for start in (calm, mixed)
    )
    assert beside == pytest.approx(alone, rel=0.2)


@pytest.mark.parametrize("S", [2, 3, 8])
@pytest.mark.parametrize("t", [0.01, 0.3, 4.0])
def test_the_exit_rate_bound_of_each_kind_holds_and_is_attained(S, t):
    d, n = 3, 400
    ctmc, generator = UniformCTMC(S, d), torch.Generator().manual_seed(S)
    x = torch.randint(S, (n, d), generator=generator)

    def largest(score):
        return float(set_own(score(x, t), x, 0.0).sum((1, 2)).max()) / S

    weights = torch.rand(n, d, S, dtype=torch.float64, generator=generator) ** 8
    law = weights / weights.sum(-1, keepdim=True)
    for kind in ("cavity", "posterior"):
        estimate = CallableScore(S, d, lambda x, t: law, kind)
        assert estimate.kind == "law"
        assert largest(estimate) <= ctmc.exit_rate_bound(t) * (1 + 1e-12)
    wild = CallableScore(S, d, lambda x, t: 1e6 * weights)
    assert (wild.kind, Clipped(wild).kind) == (None, "clipped")
    assert largest(Clipped(wild)) <= ctmc.exit_rate_bound(t, "clipped") * (1 + 1e-12)
    everywhere = CallableScore(S, d, lambda x, t: torch.full((n, d, S), 1e9))
    assert largest(Clipped(everywhere)) == pytest.approx(ctmc.exit_rate_bound(t, "clipped"), rel=1e-12)
    point = torch.zeros(S**d)
    point[0] = 1.0
    data = TableData(point, S, d)
    assert Clipped(data).kind == "law"
    far = torch.ones(1, d, dtype=torch.long)
    assert float(set_own(data.score(far, t), far, 0.0).sum()) / S == pytest.approx(ctmc.exit_rate_bound(t), rel=1e-9)
    assert (ctmc.exit_rate_bound(t) == ctmc.exit_rate_bound(t, "clipped")) == (S == 2)


def test_a_clipped_score_passes_with_its_own_envelope():
    data = ramps(3, 8)
    clipped = Clipped(ConstantBias(data, 3.0))
    schedule = exp_const(6, 0.01, 16)
    for name in ("uniformization", "thinning"):
        drawn = make_sampler(name, schedule).sample(200, clipped, torch.Generator().manual_seed(0))
        assert drawn.tokens.shape == (200, 3)


def test_thinning_and_uniformization_follow_the_law_of_a_clipped_score():
    data = ramps(2, 4)
    clipped, space = Clipped(ConstantBias(data, 3.0)), EnumeratedSpace(4, 2)
    for sampler in (make_sampler("thinning", exp_const(3, 0.1, 1)), Uniformization(exp_const(3, 0.1, 6))):
        kind = sampler if sampler.name == "thinning" else TimeFrozen(sampler.schedule)
        law = kind.law(data, clipped, representation="enumerated").probabilities
        drawn = sampler.sample(20_000, clipped, torch.Generator().manual_seed(2))
        seen = torch.bincount(space.number(drawn.tokens), minlength=16).double()
        assert chi_square_per_cell(seen, law * 20_000) < chi_square_limit(law * 20_000, 1e-4)
