"""Exact laws against dense matrices, in every representation."""

import itertools

import numpy as np
import pytest
import torch
from ctmc_bounds import (
    CallableData,
    CallableScore,
    ConstantBias,
    ExchangeableData,
    HMMData,
    IsingRing,
    LogNormalNoise,
    Marginals,
    MarkovChainData,
    MixtureData,
    TableData,
    Tempered,
    ThetaRK2,
    ThetaTrapezoidal,
    Thinning,
    TimeFrozen,
    Tweedie,
    UniformCTMC,
    curie_weiss,
    exp_const,
    kl,
    make_sampler,
    split_error,
    two_point,
)
from ctmc_bounds.exponential import chebyshev_coefficients, poisson_weights, uniformization
from ctmc_bounds.identities import chi_square_limit, chi_square_per_cell
from ctmc_bounds.kronecker import KroneckerBlocks
from ctmc_bounds.spaces import CountSpace, EnumeratedSpace
from ctmc_bounds.spec import cat4, hmm, mix, product, random, read_data
from hypothesis import given, settings
from hypothesis import strategies as st

LAWS = {
    "table": random(3, 3),
    "product": product(4, 3),
    "mixture": cat4(),
    "ising": IsingRing(5, 0.7, -0.2),
    "markov": MarkovChainData(4, [0.2, 0.5, 0.3], [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]]),
    "hmm": hmm(4, 3),
    "exchangeable": curie_weiss(5, 0.8, 0.1),
    "exchangeable S=3": ExchangeableData(3, 3, torch.arange(1, 11, dtype=torch.float64) / 55),
    "callable": CallableData(2, 4, lambda x: -x.sum(1).double(), normalise=True),
}


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param]


def brute_marginal(data, t):
    """q_t by the n x n kernel."""
    kernel = data.ctmc.kernel(t)
    full = kernel
    for _ in range(data.d - 1):
        full = torch.kron(full, kernel)
    return full @ data.table


@pytest.mark.parametrize("t", [0.0, 0.01, 0.7, 5.0])
def test_marginals_scores_and_posteriors_of_every_law(law, t):
    space = EnumeratedSpace(law.S, law.d)
    x, q = space.representatives(), brute_marginal(law, t)
    assert float(law.table.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(torch.exp(law.log_q(x, t)), q, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(Marginals(law, space).probabilities(t), q, rtol=1e-12, atol=1e-15)
    if t == 0:
        return
    ratios = q[space.dst].view(space.n, law.d, law.S) / q.view(-1, 1, 1)
    torch.testing.assert_close(law.score(x, t), ratios, rtol=1e-9, atol=1e-11)
    # posterior of one token by summing over all clean states
    kernel = law.ctmc.kernel(t)
    joint = law.table.unsqueeze(0) * torch.stack([kernel[x[:, i]][:, x[:, i]] for i in range(law.d)]).prod(0)
    for i, a in itertools.product(range(law.d), range(law.S)):
        share = joint[:, x[:, i] == a].sum(1) / joint.sum(1)
        torch.testing.assert_close(law.posterior(x, t)[:, i, a], share, rtol=1e-7, atol=1e-9)


def test_a_time_for_every_sample_is_the_same_as_one_for_all(law):
    x = law.sample(7, torch.Generator().manual_seed(0))
    times = torch.tensor([0.05, 0.2, 0.2, 1.0, 3.0, 0.5, 0.05], dtype=torch.float64)
    one_by_one = torch.cat([law.score(x[k : k + 1], float(times[k])) for k in range(7)])
    torch.testing.assert_close(law.score(x, times), one_by_one, rtol=1e-8, atol=1e-10)
    logs = torch.cat([law.log_q(x[k : k + 1], float(times[k])) for k in range(7)])
    torch.testing.assert_close(law.log_q(x, times), logs, rtol=1e-9, atol=1e-11)


def test_draws_of_every_law_follow_its_table(law):
    space = EnumeratedSpace(law.S, law.d)
    seen = torch.bincount(space.number(law.sample(40_000, torch.Generator().manual_seed(1))), minlength=space.n)
    from ctmc_bounds.identities import chi_square_per_cell

    assert chi_square_per_cell(seen.double(), law.table * 40_000) < 4.5


def test_long_chains_and_rings_stay_finite():
    for data in (IsingRing(2000, 0.5, 0.1), hmm(1500, 3), mix(2000)):
        x = data.sample(3, torch.Generator().manual_seed(0))
        assert torch.isfinite(data.log_q(x, 0.3)).all()
        low, high = data.ctmc.score_bounds(0.3)
        score = data.score(x, 0.3)
        assert low * (1 - 1e-9) <= float(score.min()) <= float(score.max()) <= high * (1 + 1e-9)


@pytest.mark.parametrize("spec", ["mix:d=4", "ising:d=5", "random:d=3,S=4", "two-point:d=4"])
@pytest.mark.parametrize("name", ["paper", "midpoint"])
def test_the_propagated_law_is_that_of_dense_matrix_exponentials(spec, name, dense_generator):
    data = read_data(spec)
    sampler = make_sampler(name, exp_const(5, 0.02, 9))
    for estimator in (None, LogNormalNoise(data, 0.3, 4)):
        p = EnumeratedSpace(data.S, data.d).uniform()
        for t, h in sampler.schedule.intervals:
            p = p @ torch.matrix_exp(h * dense_generator(data, sampler.frozen_time(t, h), estimator))
        found = sampler.law(data, estimator, representation="enumerated")
        torch.testing.assert_close(found.probabilities, p, rtol=1e-10, atol=1e-14)
        assert found.mass_defect < 1e-13


@pytest.mark.parametrize(
    "name", ["paper", "midpoint", "thinning", "euler", "reject", "ordinal", "first_jump", "tweedie"]
)
def test_counts_product_and_enumerated_agree(name):
    schedule = exp_const(4, 0.05, 12)
    options = {"strict": False} if name == "euler" else {}
    rows = [(mix(4), "counts"), (cat4(), "counts"), (product(3, 3), "product"), (curie_weiss(4), "counts")]
    for data, representation in rows:
        sampler = make_sampler(name, schedule, **options)
        small = sampler.law(data, representation=representation)
        large = sampler.law(data, representation="enumerated")
        torch.testing.assert_close(small.states(), large.states(), rtol=1e-9, atol=1e-14)
        assert small.kl == pytest.approx(large.kl, rel=1e-6, abs=1e-18)
        assert small.tv == pytest.approx(large.tv, rel=1e-6, abs=1e-13)
        assert small.chi2 == pytest.approx(large.chi2, rel=1e-6, abs=1e-13)


def test_elementwise_errors_keep_the_representation():
    data = mix(4)
    for estimator in (ConstantBias(data, 0.2), Tempered(data, 1.2)):
        sampler = TimeFrozen(exp_const(4, 0.05, 8))
        small = sampler.law(data, estimator, representation="counts")
        large = sampler.law(data, estimator, representation="enumerated")
        torch.testing.assert_close(small.states(), large.states(), rtol=1e-10, atol=1e-14)


def test_tweedie_has_no_error_on_product_data_at_any_step():
    assert Tweedie(exp_const(6, 0.01, 2)).law(product(5, 3), init="exact").kl < 1e-28


def test_the_exact_reversal_by_closed_form_is_the_limit_of_small_steps():
    data = mix(4)
    exact = Thinning(exp_const(1.5, 0.05, 1)).law(data, representation="enumerated")
    gaps = [
        kl(exact.probabilities, make_sampler("midpoint", exp_const(1.5, 0.05, N)).law(data).states())
        for N in (100, 200)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(16, rel=0.01)
    assert gaps[1] < 1e-10
    same = CallableScore(2, 4, data.score)
    integrated = Thinning(exp_const(1.5, 0.05, 1)).law(data, same, representation="enumerated")
    torch.testing.assert_close(integrated.probabilities, exact.probabilities, rtol=1e-8, atol=1e-11)


def test_orders_of_the_theta_schemes_depend_on_the_inner_kernel():
    data = mix(5)

    def order(kind, **options):
        a, b = (kind(exp_const(6, 0.01, N), **options).law(data, init="exact").kl for N in (32, 64))
        return float(np.log2(a / b))

    assert 3.3 < order(ThetaTrapezoidal) < 4.1
    assert 1.9 < order(ThetaTrapezoidal, inner="reject") < 2.9
    assert 1.8 < order(ThetaRK2) < 2.2


def test_the_split_of_an_estimated_score_adds_up():
    data = mix(4)
    split = split_error(data, TimeFrozen(exp_const(5, 0.02, 16)), LogNormalNoise(data, 0.2))
    assert split.initialisation + split.score + split.discretisation == pytest.approx(split.total, abs=1e-15)
    assert split.score > 0
    assert split.discretisation > 0


def test_a_law_at_2_to_the_14_states_agrees_with_expm_multiply_to_1e_12():
    import scipy.sparse
    from scipy.sparse.linalg import expm_multiply

    data, space = mix(14), EnumeratedSpace(2, 14)
    marginals, p = Marginals(data, space), EnumeratedSpace(2, 14).uniform()
    schedule = exp_const(6, 0.01, 2)
    rows = torch.arange(space.n).repeat_interleave(14).numpy()
    reference = p.numpy().copy()
    for t, h in schedule.intervals:
        off = space.multiplicity > 0
        rates = torch.exp(space.log_scores(marginals.log_q(t)))[off].numpy() / 2
        G = scipy.sparse.csr_matrix((rates, (rows, space.dst[off].numpy())), shape=(space.n, space.n))
        G = G - scipy.sparse.diags(np.asarray(G.sum(1)).ravel())
        reference = expm_multiply(h * G.T, reference)
    found = TimeFrozen(schedule).law(data, representation="enumerated")
    assert np.abs(found.probabilities.numpy() - reference).max() < 1e-12 * reference.max()


def test_kronecker_blocks_act_as_the_generator():
    for S, d in ((2, 9), (3, 5), (5, 2), (2, 15)):
        blocks = KroneckerBlocks(UniformCTMC(S, d))
        v = torch.rand(S**d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = UniformCTMC(S, d).generator_matvec(v) + UniformCTMC(S, d).jump_rate * v
        torch.testing.assert_close(blocks.sum(blocks.adjacency, v), expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(blocks.product(blocks.kernel(0.4), v), UniformCTMC(S, d).marginal(v, 0.4))


def test_series_converge_for_long_steps():
    for z in (0.1, 3.0, 900.0, 5000.0):
        assert poisson_weights(z).sum() == pytest.approx(1, abs=1e-12)
        assert chebyshev_coefficients(z).sum() == pytest.approx(1, abs=1e-12)  # e^{z(x-1)} at x = 1
    rates = torch.tensor([[0.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    found, _ = uniformization(lambda v: v @ rates, rates.sum(1), p, 800.0)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.8], dtype=torch.float64), rtol=1e-12, atol=0)


def test_kl_sees_1e_18_where_the_plain_sum_sees_rounding():
    q = torch.full((64,), 1 / 64, dtype=torch.float64)
    tilt = torch.where(torch.arange(64) < 32, 1e-9, -1e-9)
    assert kl(q, q * (1 + tilt)) == pytest.approx(5e-19, rel=1e-6)
    assert isinstance(kl(q.numpy(), q.numpy()), float)


@settings(max_examples=25)
@given(S=st.integers(2, 4), d=st.integers(1, 3), seed=st.integers(0, 999), t=st.floats(0.01, 4))
def test_properties_of_any_law(S, d, seed, t):
    data = random(d, S, seed)
    marginals = Marginals(data)
    q, space = marginals.probabilities(t), marginals.space
    log_s = space.log_scores(marginals.log_q(t))
    low, high = data.ctmc.score_bounds(t)
    assert low * (1 - 1e-12) <= float(torch.exp(log_s).min())
    assert float(torch.exp(log_s).max()) <= high * (1 + 1e-12)
    R = space.exit_rates(log_s)
    assert float((q * R).sum()) == pytest.approx(data.ctmc.jump_rate, rel=1e-11)
    assert float(R.max()) <= data.ctmc.exit_rate_bound(t) * (1 + 1e-12)
    assert kl(q, space.uniform()) <= np.exp(-t) * kl(data.table, space.uniform()) + 1e-14


def test_count_spaces_number_their_states():
    space = CountSpace(3, 4)
    x = space.representatives()
    assert torch.equal(space.number(x), torch.arange(space.n))
    assert torch.equal(torch.stack([(x == a).sum(1) for a in range(3)], 1), space.counts)
    assert float(torch.exp(space.log_size).sum()) == pytest.approx(81)
    moved = space.multiplicity > 0
    here = torch.arange(space.n).view(-1, 1).expand_as(moved)
    assert torch.equal(space.dst[space.dst, space.reverse][moved], here[moved])


def test_a_hidden_chain_with_one_hidden_state_is_a_product():
    data = HMMData(3, [1.0], [[1.0]], [[0.2, 0.3, 0.5]])
    other = MixtureData([1.0], [[[0.2, 0.3, 0.5]] * 3])
    x = EnumeratedSpace(3, 3).representatives()
    torch.testing.assert_close(data.cavity(x, 0.4), other.cavity(x, 0.4))
    assert isinstance(two_point(3), MixtureData)
    assert TableData(other.table.view(3, 3, 3)).d == 3


def test_impossible_sequences_of_a_chain_have_probability_0():
    data = MarkovChainData(4, [0.5, 0.5], [[1.0, 0.0], [0.3, 0.7]])
    x = EnumeratedSpace(2, 4).representatives()
    steps = torch.tensor([[1.0, 0.0], [0.3, 0.7]], dtype=torch.float64)
    expected = 0.5 * torch.stack([steps[x[:, i], x[:, i + 1]] for i in range(3)]).prod(0)
    torch.testing.assert_close(data.table, expected)
    assert not data.full_support()
    assert TimeFrozen(exp_const(6, 0.01, 16)).law(data).kl < 0.1


def test_a_first_state_that_cannot_show_every_token_has_no_full_support():
    data = HMMData(2, [1.0, 0.0], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]])
    assert float(data.table.min()) == 0
    assert not data.full_support()
    assert HMMData(2, [0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]).full_support()


@pytest.mark.parametrize("J", [200.0, -60.0])
@pytest.mark.parametrize("d", [4, 5])
def test_strong_couplings_of_the_ising_ring(J, d):
    """A frustrated ring of odd length too, whose eigenvalues cancel."""
    data, x = IsingRing(d, J, 0.0), EnumeratedSpace(2, d).representatives()
    spin = 2.0 * x.double() - 1
    energy = J * (spin * spin.roll(-1, 1)).sum(1)
    expected = torch.softmax(energy, 0)
    torch.testing.assert_close(data.table, expected, rtol=1e-12, atol=1e-300)
    assert not data.full_support() or abs(J) < 70
    drawn = data.sample(4000, torch.Generator().manual_seed(0))
    seen = torch.bincount(EnumeratedSpace(2, d).number(drawn), minlength=2**d)
    assert int(seen[expected < 1e-9].sum()) == 0


@pytest.mark.parametrize(("S", "d"), [(2, 11), (3, 7), (5, 5), (13, 3)])
def test_the_compiled_series_is_the_series(S, d):
    from ctmc_bounds.exponential import _compiled_series, _series

    blocks, generator = KroneckerBlocks(UniformCTMC(S, d)), torch.Generator().manual_seed(0)
    start, diagonal = (torch.rand(S**d, dtype=torch.float64, generator=generator) for _ in range(2))
    coefficients = chebyshev_coefficients(3.0)
    plain = _series(blocks, 0.3, diagonal.clone(), start.clone(), coefficients)
    torch.testing.assert_close(
        _compiled_series(blocks, 0.3, diagonal, start, coefficients), plain, rtol=1e-12, atol=1e-14
    )


def test_counts_of_an_exchangeable_law_are_its_tokens_order_aside():
    data = ExchangeableData(3, 4, torch.arange(1, 16, dtype=torch.float64) / 120)
    space, n = EnumeratedSpace(3, 4), 40_000
    seen = torch.bincount(space.number(data.sample(n, torch.Generator().manual_seed(0))), minlength=81).double()
    expected = data.table * n
    assert float(expected.sum()) == pytest.approx(n)
    assert chi_square_per_cell(seen, expected) < chi_square_limit(expected, 1e-4)
