"""Bounds, losses, planning; samplers by simulation."""

import math

import numpy as np
import pytest
import torch
from ctmc_bounds import (
    SAMPLERS,
    CallableScore,
    Clipped,
    ConstantBias,
    EnvelopeError,
    Euler,
    LogNormalNoise,
    Marginals,
    NetworkScore,
    NetworkShape,
    TableData,
    TimeFrozen,
    Training,
    UniformCTMC,
    Uniformization,
    cavity_to_posterior,
    cavity_to_score,
    certified_bound,
    constant,
    denoising_score_entropy,
    exp_const,
    fit_constant,
    girsanov_terms,
    kl,
    make_sampler,
    noised,
    paper_bound,
    path_monte_carlo,
    plan_steps,
    posterior_to_cavity,
    posterior_to_score,
    score_entropy,
    score_to_cavity,
    score_to_posterior,
    telescoped_bound,
    train_cavity_network,
    two_point,
)
from ctmc_bounds.certified import _excess
from ctmc_bounds.identities import chi_square_per_cell, expected_jumps, verify_identities
from ctmc_bounds.planner import fewest_steps, horizon, stopping_for
from ctmc_bounds.spaces import EnumeratedSpace
from ctmc_bounds.spec import hmm, mix, random, read_data
from shared_core.errors import InputError


def test_the_two_forms_of_girsanov_agree_for_any_estimator(mix6, grid):
    for estimator in (None, LogNormalNoise(mix6, 0.3), ConstantBias(mix6, 0.2)):
        for init in ("uniform", "exact"):
            sampler = TimeFrozen(grid(16))
            path = girsanov_terms(mix6, sampler, estimator, init).total
            assert telescoped_bound(mix6, sampler, estimator, init) == pytest.approx(path, rel=1e-9)


def test_the_path_term_of_large_spaces_needs_no_table_of_moves(ising6, grid, monkeypatch):
    direct = girsanov_terms(ising6, TimeFrozen(grid(8)))
    monkeypatch.setattr("ctmc_bounds.girsanov.DIRECT_ENTRIES", 1)
    assert girsanov_terms(ising6, TimeFrozen(grid(8))).path == pytest.approx(direct.path, rel=1e-10)


def test_kl_girsanov_certified_in_this_order(grid):
    for spec in ("mix:d=6", "ising:d=6", "two-point:d=4", "cat4", "random:d=3,S=4"):
        data = read_data(spec)
        for N in (4, 16, 64):
            sampler = TimeFrozen(grid(N))
            path = girsanov_terms(data, sampler).total
            assert sampler.law(data).kl <= path <= certified_bound(grid(N), Marginals(data)).total
            assert path <= certified_bound(grid(N), data.ctmc).total


def test_the_path_term_by_simulation_agrees_within_its_error(mix6, grid):
    sampler, estimator = TimeFrozen(grid(8)), LogNormalNoise(mix6, 0.3, 1)
    exact = girsanov_terms(mix6, sampler, estimator).path
    found = path_monte_carlo(mix6, sampler, estimator, 20_000, torch.Generator().manual_seed(0))
    assert abs(found.mean - exact) < 4 * found.standard_error
    long = hmm(100, 3)
    assert path_monte_carlo(long, sampler, None, 50, torch.Generator().manual_seed(0)).mean > 0


def test_the_denoising_loss_differs_by_a_constant_and_integrates_to_information():
    data = mix(4)
    space, x = EnumeratedSpace(2, 4), EnumeratedSpace(2, 4).representatives()
    marginals = Marginals(data, space)

    def denoising(t, estimator):
        kernel = data.ctmc.kernel(t)
        joint = torch.stack([kernel[x[:, i]][:, x[:, i]] for i in range(4)]).prod(0) * data.table.view(-1, 1)
        clean, noisy = (grid.reshape(-1) for grid in torch.meshgrid(*[torch.arange(16)] * 2, indexing="ij"))
        return float((joint.reshape(-1) * denoising_score_entropy(estimator(x[noisy], t), x[clean], x[noisy], t)).sum())

    gaps = [denoising(0.3, e) - score_entropy(marginals, 0.3, e) for e in (data, LogNormalNoise(data, 0.5))]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-10)

    def information(t):  # I(X_0; X_t)
        kernel = data.ctmc.kernel(t)
        joint = torch.stack([kernel[x[:, i]][:, x[:, i]] for i in range(4)]).prod(0) * data.table.view(-1, 1)
        return kl(joint.reshape(-1), torch.outer(data.table, marginals.probabilities(t)).reshape(-1))

    nodes, weights = np.polynomial.legendre.leggauss(30)
    total = 0.0
    for low, high in ((math.log(0.01), 0.0), (0.0, math.log(6))):
        for node, weight in zip(nodes, weights, strict=True):
            t = math.exp((high - low) / 2 * (node + 1) + low)
            total += (high - low) / 2 * weight * t * denoising(t, data)
    assert total == pytest.approx(information(0.01) - information(6.0), rel=1e-9)
    assert total == pytest.approx(2.510598559619636, abs=1e-9)


def test_converters_are_inverse_and_take_numpy():
    data = random(3, 4, 5)
    x = data.sample(6, torch.Generator().manual_seed(2))
    t = torch.rand(6, dtype=torch.float64) + 0.1
    s, w, mu = data.score(x, t), data.posterior(x, t), data.cavity(x, t)
    torch.testing.assert_close(score_to_posterior(s, x, t), w, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(posterior_to_score(w, x, t), s, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(score_to_cavity(s, x, t), mu, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cavity_to_score(mu, x, t), s)
    torch.testing.assert_close(posterior_to_cavity(w, x, t), mu, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cavity_to_posterior(mu, x, t), w)
    as_numpy = score_to_posterior(s.numpy(), x.numpy(), 0.5)
    assert isinstance(as_numpy, np.ndarray)
    assert isinstance(data.score(x.numpy(), 0.5), np.ndarray)


def test_clipping_never_increases_the_loss_at_any_state(mix6):
    noisy = LogNormalNoise(mix6, 1.0)
    for t in (0.01, 0.3, 2.0):
        assert score_entropy(Marginals(mix6, EnumeratedSpace(2, 6)), t, Clipped(noisy)) <= score_entropy(
            Marginals(mix6, EnumeratedSpace(2, 6)), t, noisy
        )


def test_the_certificate_has_no_cancellation():
    for z in (1e-8, 1e-3, 0.4999, 0.5001, 3.0):
        terms = sum(z**k / math.factorial(k + 1) for k in range(2, 60))
        assert _excess(z) == pytest.approx(terms, rel=1e-12)


def test_the_remembered_form_says_that_it_is(mix6, grid):
    forms = [paper_bound(mix6.ctmc, grid(N), form) for N, form in ((16, "thm1"), (32, "thm2"))]
    assert all("memory" in form.status for form in forms)
    constant = fit_constant([1e-3, 1e-4], forms)
    assert max(1e-3 / forms[0].total, 1e-4 / forms[1].total) == constant


def test_plans_hold_and_are_the_shortest(mix6):
    T, plans = plan_steps(mix6.ctmc, 1e-3, 0.01, mix6)
    for plan in plans:
        assert plan.value <= 1e-3
        if plan.N > 1:
            options = {"strict": False} if plan.sampler == "euler" else {}
            shorter = make_sampler(plan.sampler, exp_const(T, 0.01, plan.N - 1), **options)
            assert shorter.law(mix6).kl > 1e-3
    _, (certified,) = plan_steps(mix6.ctmc, 1e-2, 0.01, mix6, "certified", ["paper"])
    _, (worst,) = plan_steps(mix6.ctmc, 1e-2, 0.01, None, samplers=["paper"])
    assert plans[0].N < certified.N < worst.N
    assert horizon(1e-3, mix6) < horizon(1e-3, mix6.ctmc)
    assert fewest_steps(lambda N: 1 / N, 0.1) == (10, 0.1)
    assert 1 - mix6.ctmc.stay(stopping_for(mix6.ctmc, 0.05)) ** 6 == pytest.approx(0.05)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spec", ["mix:d=4", "random:d=2,S=3"])
def test_draws_follow_the_law(name, spec):
    data, n = read_data(spec), 20_000
    sampler = (
        Euler(exp_const(4, 0.05, 8), strict=False) if name == "euler" else make_sampler(name, exp_const(4, 0.05, 8))
    )
    law = sampler.law(data, init="exact", representation="enumerated")
    for table in (True, False) if isinstance(sampler, TimeFrozen) else (None,):
        chosen = sampler if table is None else type(sampler)(sampler.schedule, table=table)
        found = chosen.sample(n, data, torch.Generator().manual_seed(3), "exact")
        seen = torch.bincount(law.space.number(found.tokens), minlength=law.space.n).double()
        assert chi_square_per_cell(seen, law.probabilities * n) < 4.5
        expected = sampler.expected_calls(data.ctmc)
        assert found.calls == pytest.approx(expected, rel=0.05)


def test_uniformization_with_every_envelope_and_violations(mix6):
    grid = exp_const(4, 0.05, 8)
    law = TimeFrozen(grid).law(mix6, representation="enumerated")
    for envelope in ("analytic", "max", "adaptive"):
        found = Uniformization(grid, envelope=envelope).sample(20_000, mix6, torch.Generator().manual_seed(0))
        seen = torch.bincount(law.space.number(found.tokens), minlength=64).double()
        assert chi_square_per_cell(seen, law.probabilities * 20_000) < 4.5
        assert found.notes["candidates"] >= found.jumps
    wild = ConstantBias(mix6, 3.0)
    with pytest.raises(EnvelopeError, match=r"envelope lambda = .* below the exit rate .*clip"):
        Uniformization(grid).sample(100, wild, torch.Generator().manual_seed(0))
    with pytest.raises(EnvelopeError, match="times the envelope of thinning"):
        make_sampler("thinning", grid).sample(100, wild, torch.Generator().manual_seed(0))


def test_the_same_seed_gives_the_same_draws(mix6, grid):
    for name in ("paper", "thinning", "tweedie"):
        a, b = (make_sampler(name, grid(8)).sample(50, mix6, torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(a.tokens, b.tokens)


def test_noise_of_a_score_is_normal_and_fixed(mix6):
    x = EnumeratedSpace(2, 6).representatives()
    z = (torch.log(LogNormalNoise(mix6, 1.0, 3)(x, 0.5)) - torch.log(mix6(x, 0.5)))[
        torch.nn.functional.one_hot(x, 2) == 0
    ]
    assert abs(float(z.mean())) < 0.15
    assert float(z.std()) == pytest.approx(1, abs=0.1)
    again = torch.log(LogNormalNoise(mix6, 1.0, 3)(x, 0.7)) - torch.log(mix6(x, 0.7))
    torch.testing.assert_close(again[torch.nn.functional.one_hot(x, 2) == 0], z, rtol=1e-10, atol=1e-12)


def test_estimators_of_all_parametrisations_are_the_same_score(mix6):
    x = EnumeratedSpace(2, 6).representatives()
    for kind in ("score", "posterior", "cavity"):
        function = {"score": mix6.score, "posterior": mix6.posterior, "cavity": mix6.cavity}[kind]
        for as_numpy in (False, True):
            estimator = CallableScore(2, 6, function, kind, numpy=as_numpy)
            torch.testing.assert_close(estimator(x, 0.4), mix6.score(x, 0.4), rtol=1e-10, atol=1e-12)

    class Cavity(torch.nn.Module):
        def forward(self, x, t):
            return torch.log(mix6.cavity(x, t)).float()

    torch.testing.assert_close(NetworkScore(Cavity(), 2, 6)(x, 0.4), mix6.score(x, 0.4), rtol=1e-5, atol=1e-6)


def test_a_trained_network_learns_and_resumes_to_the_bit(tmp_path):
    data = random(2, 3, 1)
    shape, training = NetworkShape(3, 2, 32), Training(steps=400, batch_size=128)
    whole = train_cavity_network(data, shape, training)
    marginals = Marginals(data)
    untrained = train_cavity_network(data, shape, Training(steps=1, learning_rate=1e-9))
    assert score_entropy(marginals, 0.5, whole) < 0.2 * score_entropy(marginals, 0.5, untrained)
    stopped = tmp_path / "network.safetensors"

    class KillError(Exception):
        pass

    def kill(step, loss):
        if step == 300:
            raise KillError

    with pytest.raises(KillError):
        train_cavity_network(data, shape, training, stopped, checkpoint_every=100, report=kill)
    resumed = train_cavity_network(data, shape, training, stopped, checkpoint_every=100)
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("mix:d=4", {}),
        ("two-point:d=3", {}),
        ("hmm:d=3,S=3", {}),
        ("random:d=2,S=5", {}),
        ("two-point:d=3", {"N": 1}),  # an interval over which the score varies a hundredfold
        ("mix:d=3", {"delta": 1e-8, "N": 64}),
        ("mix:d=3", {"T": 0.02}),  # hardly any jump
        ("mix:d=3", {"delta": 2.0}),
        ("markov:d=3,stay=1", {}),
        ("hmm:d=3,sharp=0", {}),
        ("ising:d=4,J=200", {}),
        (TableData(np.full((2, 2, 2), 1 / 8)), {}),  # (G) = 0
        (TableData([0.3, 0.7]), {}),
        (TableData([[0.0, 0.0], [1.0, 0.0]]), {}),
    ],
)
def test_identities_hold_on_laws_of_each_kind(data, options):
    law = read_data(data) if isinstance(data, str) else data
    assert [check for check in verify_identities(law, **options) if not check.holds] == []


def test_the_path_kl_is_integrated_to_rounding_on_coarse_grids():
    for law, schedule in ((two_point(3), exp_const(6, 0.01, 1)), (mix(3), constant(6, 0, 2))):
        coarse, fine = (girsanov_terms(law, TimeFrozen(schedule), nodes=nodes).total for nodes in (8, 16))
        assert coarse == pytest.approx(fine, rel=1e-9)
        assert TimeFrozen(schedule).law(law).kl <= coarse


def test_expected_jumps_of_the_exact_reversal_are_the_limit(mix6):
    marginals = Marginals(mix6, EnumeratedSpace(2, 6))
    found = expected_jumps(marginals, TimeFrozen(exp_const(6, 0.01, 256)))
    assert found == pytest.approx(mix6.ctmc.expected_jumps(6, 0.01), rel=2e-3)


def test_plans_say_what_is_out_of_reach(mix6):
    _, (short,) = plan_steps(mix6.ctmc, 1e-3, 0.01, mix6, samplers=["thinning"], T=0.5)
    assert (short.N, short.calls) == (None, None)
    assert "raise T" in short.basis
    _, (endless,) = plan_steps(mix6.ctmc, 1e-3, 0.0, mix6, samplers=["thinning"], grid="constant")
    assert endless.calls is None
    assert "delta = 0" in endless.basis
    _, (worst,) = plan_steps(mix6.ctmc, 1e-3, 0.01, None, samplers=["thinning"], T=1.0)
    assert worst.N is None
    for tv, d in ((0.5, 1), (0.9, 1), (0.0, 3), (1.0, 3)):
        with pytest.raises(InputError, match=r"tv = .*1 - S\^-d"):
            stopping_for(UniformCTMC(2, d), tv)
    with pytest.raises(InputError, match=r"eps = -1"):
        plan_steps(mix6.ctmc, -1, 0.01, mix6)
    with pytest.raises(InputError, match=r"0 <= delta < T = 0.05"):
        plan_steps(mix6.ctmc, 1e-3, 0.1, mix6, T=0.05)


def test_noised_tokens_have_the_marginal(mix6):
    x = noised(mix6.sample(50_000, torch.Generator().manual_seed(0)), 2, 0.5, torch.Generator().manual_seed(1))
    space = EnumeratedSpace(2, 6)
    seen = torch.bincount(space.number(x), minlength=64).double()
    assert chi_square_per_cell(seen, Marginals(mix6, space).probabilities(0.5) * 50_000) < 4.5
