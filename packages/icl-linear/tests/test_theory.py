import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from icl_linear import (
    Problem,
    bayes_factor,
    bayes_factor_limit,
    bayes_risk,
    conditional_bayes_risk,
    conditional_risk,
    excess_risk,
    infinite_context_floor,
    make_problem,
    minimal_risk,
    mismatch_excess,
    moments,
    risk,
    sample_tasks,
    variable_length_optimum,
)
from shared_core.errors import InputError

problems = st.builds(
    lambda values, psi, sigma: Problem(torch.tensor(values, dtype=torch.float64), psi, sigma),
    st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    st.floats(0.1, 3),
    st.floats(0, 3),
)
lengths = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(problems, lengths, st.integers(0, 10))
def test_the_excess_formula_is_the_difference_of_risks(problem, n, seed):
    gamma = torch.randn(problem.d, problem.d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    difference = risk(problem, gamma, n) - minimal_risk(problem, n)
    assert torch.allclose(excess_risk(problem, gamma, n), difference, rtol=1e-10)
    assert difference >= 0


@settings(max_examples=60, deadline=None)
@given(problems, lengths, lengths)
def test_the_price_of_another_length_is_the_difference_of_risks(problem, trained, tested):
    direct = risk(problem, problem.gamma_star(trained), tested) - minimal_risk(problem, tested)
    assert torch.allclose(mismatch_excess(problem, trained, tested), direct, rtol=1e-8, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(problems, lengths)
def test_the_risk_is_flat_at_its_optimum(problem, n):
    gamma = torch.diag(problem.gamma_star(n)).requires_grad_()
    risk(problem, gamma, n).backward()
    assert gamma.grad.abs().max() < 1e-9 * max(problem.zero_risk, 1) * (1 + float(problem.eigenvalues.max()))


def test_zero_noiseless_and_infinite_context(small):
    assert math.isclose(float(risk(small, torch.zeros(3), 7)), 0.4 + 0.8 * 1.75)
    noiseless = Problem(torch.tensor([2.0, 1.0]), 1, 0)
    known = torch.linalg.inv(
        (1 + 1 / 5) * noiseless.covariance + noiseless.trace / 5 * torch.eye(2, dtype=torch.float64)
    )
    assert torch.allclose(torch.diag(noiseless.gamma_star(5)), known)
    assert torch.allclose(small.gamma_star(math.inf), 1 / small.eigenvalues)
    assert torch.allclose(small.gamma_star(10**9), 1 / small.eigenvalues, rtol=1e-7)
    g = small.gamma_star(20)
    assert torch.allclose(
        infinite_context_floor(small, 20), 0.8 * (small.eigenvalues * (1 - g * small.eigenvalues) ** 2).sum()
    )


def test_everything_is_invariant_under_rotation(rotated):
    straight, turned = rotated
    generator = torch.Generator().manual_seed(1)
    gamma = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    assert torch.allclose(risk(straight, gamma, 9), risk(turned, turned.to_data(gamma), 9))
    assert torch.allclose(
        turned.to_data(torch.diag(turned.gamma_star(9))),
        torch.linalg.inv(
            (turned.trace + turned.sigma**2 / turned.psi**2) / 9 * torch.eye(4).double() + 10 / 9 * turned.covariance
        ),
    )
    X = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    assert torch.allclose(
        conditional_risk(straight, gamma, X), conditional_risk(turned, turned.to_data(gamma), X @ turned.basis.T)
    )


def test_the_conditional_risk_averages_to_the_risk(small):
    generator = torch.Generator().manual_seed(0)
    gamma = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    X = sample_tasks(small, 8, 40_000, generator).X
    found = conditional_risk(small, gamma, X)
    z = (found.mean() - risk(small, gamma, 8)) / (found.std() / len(found) ** 0.5)
    assert abs(float(z)) < 4


def test_the_risk_is_that_of_simulated_prompts():
    problem = make_problem("power:1", 6, trace=None)
    generator = torch.Generator().manual_seed(1)
    gamma = 0.3 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    tasks = sample_tasks(problem, 9, 100_000, generator)
    v = torch.einsum("tnd,tn->td", tasks.X, tasks.y) / 9
    errors = ((tasks.x_query @ gamma * v).sum(-1) - tasks.y_query) ** 2
    z = (errors.mean() - risk(problem, gamma, 9)) / (errors.std() / len(errors) ** 0.5)
    assert abs(float(z)) < 4


def _wick(eigenvalues, psi, sigma, n, k, j):
    """E v_k^2 v_j^2, E beta_k v_k v_j^2, E beta_k^2 v_j^2 by Gauss-Hermite quadrature over beta, chi^2 and z exact.

    Independent of the package's formula: conditional moments given beta are computed numerically.
    """
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    u1, u2, u3, u4 = n, n * (n + 2), n * (n + 2) * (n + 4), n * (n + 2) * (n + 4) * (n + 6)
    total = np.zeros(3)
    for points in itertools.product(range(12), repeat=len(eigenvalues)):
        beta = psi * nodes[list(points)]
        weight = weights[list(points)].prod()
        tau2 = (beta**2 * eigenvalues).sum() + sigma**2
        hb = eigenvalues * beta
        cov = np.diag(eigenvalues) - np.outer(hb, hb) / tau2
        # v = (u hb + tau sqrt(u) z) / n
        ckk, cjj, ckj = cov[k, k], cov[j, j], cov[k, j]
        fourth = (
            u4 * hb[k] ** 2 * hb[j] ** 2
            + u3 * tau2 * (hb[k] ** 2 * cjj + hb[j] ** 2 * ckk + 4 * hb[k] * hb[j] * ckj)
            + u2 * tau2**2 * (ckk * cjj + 2 * ckj**2)
        )
        third = u3 * hb[k] * hb[j] ** 2 + u2 * tau2 * (hb[k] * cjj + 2 * hb[j] * ckj)
        second = u2 * hb[j] ** 2 + u1 * tau2 * cjj
        total += weight * np.array([fourth / n**4, beta[k] * third / n**3, beta[k] ** 2 * second / n**2])
    return total


@pytest.mark.parametrize("n", [1, 3, 50])
def test_the_moments_of_v_meet_quadrature_to_ten_digits(small, n):
    found = moments(small, n)
    tables = [table.dense(found.powers) for table in (found.vvvv, found.bvvv, found.bbvv)]
    for k, j in ((0, 0), (0, 1), (1, 0), (2, 1), (2, 2)):
        exact = _wick(small.eigenvalues.numpy(), small.psi, small.sigma, n, k, j)
        for table, value in zip(tables, exact, strict=True):
            assert math.isclose(float(table[k, j]), value, rel_tol=1e-10)


def test_the_best_gamma_for_drawn_lengths_beats_every_other(small):
    weights = {4: 1.0, 20: 2.0, 100: 1.0}
    best = variable_length_optimum(small, weights)

    def mean(gamma):
        return sum(w * float(risk(small, gamma, n)) for n, w in weights.items()) / 4

    for other in (*[small.gamma_star(n) for n in (4, 20, 100)], best * 1.01, best * 0.99):
        assert mean(best) < mean(other)
    assert torch.allclose(variable_length_optimum(small, {7: 3.0}), small.gamma_star(7))
    with pytest.raises(InputError, match="at least one"):
        variable_length_optimum(small, {})


@pytest.mark.parametrize("m", [1, 3, 6, 7, 20, 200])
def test_bartlett_and_woodbury_agree_with_plain_ridge(m):
    problem = make_problem("power:1", 6, sigma=0.5)
    generator = torch.Generator().manual_seed(m)
    X = torch.randn(4000, m, 6, generator=generator, dtype=torch.float64) * problem.eigenvalues.sqrt()
    direct = torch.linalg.inv(X.mT @ X + problem.sigma**2 * torch.eye(6).double())
    plain = problem.sigma**2 + problem.sigma**2 * (direct.diagonal(dim1=1, dim2=2) @ problem.eigenvalues)
    assert torch.allclose(conditional_bayes_risk(problem, X), plain, rtol=1e-10)
    mean, error = bayes_risk(problem, m, draws=4000, seed=1)
    assert abs(mean - float(plain.mean())) < 4 * (error**2 + float(plain.var()) / 4000) ** 0.5


@settings(max_examples=20, deadline=None)
@given(problems, st.integers(1, 40))
def test_no_attention_model_beats_bayes(problem, m):
    ridge = bayes_risk(problem, m, draws=50)
    assert float(minimal_risk(problem, m)) >= ridge.mean - 4 * ridge.standard_error - 1e-9


@settings(max_examples=20, deadline=None)
@given(problems.filter(lambda problem: problem.sigma > 0.05), st.integers(1, 60))
def test_attention_is_within_its_factor_of_bayes(problem, n):
    ridge = bayes_risk(problem, n, draws=50)
    factor = (float(minimal_risk(problem, n)) - problem.sigma**2) / (ridge.mean - problem.sigma**2)
    error = 4 * ridge.standard_error / (ridge.mean - problem.sigma**2)
    assert factor <= bayes_factor(problem) * (1 + error) + 1e-9


def test_the_factor_tends_to_its_limit(small):
    n = 10**7
    ridge = bayes_risk(small, n, draws=400)
    factor = (float(minimal_risk(small, n)) - small.sigma**2) / (ridge.mean - small.sigma**2)
    assert factor == pytest.approx(bayes_factor_limit(small), rel=1e-4)


def test_the_risk_of_bayes_given_inputs_does_not_depend_on_coordinates(rotated):
    straight, turned = rotated
    X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(conditional_bayes_risk(straight, X), conditional_bayes_risk(turned, X @ turned.basis.T))


def test_the_briefs_anchors_for_iso_32():
    problem = make_problem("iso", 32)
    for m, ridge, matched, from_256 in (
        (4, 0.940, 0.942, 10.4),
        (64, 0.416, 0.504, 0.687),
        (1024, 0.0313, 0.0597, 0.0814),
    ):
        assert bayes_risk(problem, m).mean - 1 == pytest.approx(ridge, rel=5e-3)
        assert float(minimal_risk(problem, m)) - 1 == pytest.approx(matched, rel=2e-3)
        assert float(risk(problem, problem.gamma_star(256), m)) - 1 == pytest.approx(from_256, rel=4e-3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Problem(torch.tensor([1.0, 0.0])), "entry 2 is 0"),
        (lambda: Problem(torch.tensor([1.0, -0.5])), "entry 2 is -0.5"),
        (lambda: Problem(torch.tensor([1.0]), psi=0), "psi"),
        (lambda: Problem(torch.tensor([1.0]), sigma=-1), "sigma"),
        (lambda: Problem.from_covariance(torch.tensor([[1.0, 0.5], [0.1, 1.0]])), "symmetric"),
        (lambda: Problem.from_covariance(torch.tensor([[1.0, 1.0], [1.0, 1.0]])), "entry 2 is 0"),
        (lambda: Problem.from_covariance(torch.ones(2, 3)), "square"),
        (lambda: risk(make_problem("iso", 3), torch.ones(4), 5), "shape 3, got 4"),
        (lambda: risk(make_problem("iso", 3), torch.ones(3, 2), 5), "shape 3 x 3, got 3 x 2"),
        (lambda: risk(make_problem("iso", 3), torch.ones(3), 0), "at least 1"),
        (lambda: risk(make_problem("iso", 3), torch.ones(3), 2.5), "whole number"),
        (lambda: bayes_risk(make_problem("iso", 3), 0), "at least 1"),
        (lambda: make_problem("cauchy", 3), "spectrum must be"),
        (lambda: make_problem("power:x", 3), "spectrum must be"),
        (lambda: make_problem("spiked:9", 3), "more spikes"),
        (lambda: make_problem("exp:0.5", 3), "above 1"),
    ],
)
def test_bad_arguments_are_named(make, says):
    with pytest.raises(InputError, match=says):
        make()
