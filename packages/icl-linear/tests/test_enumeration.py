"""The closed forms and the recursion against enumeration: every Gaussian replaced by a quadrature that is exact here.

Two dimensions, one context example: beta, X, its label's noise, x and its noise are eight normal variables. A step of
SGD is a polynomial of degree at most 8 in each, so five Gauss-Hermite nodes for each variable, 390,625 points in all,
give its moments without error. Nothing below uses the package's formulas or the symmetry they rest on.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
from icl_linear import Problem, conditional_risk, excess_risk, expected_sgd, minimal_risk, moments, risk
from icl_linear.schedule import constant, explicit

CASES = [((1.0, 0.3), 0.9, 0.6), ((0.5, 0.5), 1.3, 0.2), ((2.0, 0.1), 0.7, 0.0)]


class Enumeration:
    """Moments of F = vec(x v^T), the label y and beta over all prompts with one example."""

    def __init__(self, eigenvalues, psi, sigma):
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        grid = torch.tensor(list(itertools.product(range(5), repeat=8)))
        z = torch.from_numpy(nodes)[grid]
        self.weight = torch.from_numpy(weights / weights.sum())[grid].prod(1)
        root = torch.tensor(eigenvalues, dtype=torch.float64).sqrt()
        self.beta, X, x = psi * z[:, :2], z[:, 2:4] * root, z[:, 4:6] * root
        self.v = X * ((X * self.beta).sum(1) + sigma * z[:, 6])[:, None]
        self.y = (x * self.beta).sum(1) + sigma * z[:, 7]
        self.F = (x[:, :, None] * self.v[:, None, :]).flatten(1)

    def mean(self, values):
        return torch.tensordot(self.weight, values, 1)

    def sgd(self, Gamma, sizes, batch):
        """E vec(Gamma_t) and E vec(Gamma_t) vec(Gamma_t)^T, exactly, for given step sizes."""
        FF = (self.F[:, :, None] * self.F[:, None, :]).flatten(1)
        fourth = (FF.T @ (self.weight[:, None] * FF)).reshape(4, 4, 4, 4)
        third = ((self.weight * self.y)[:, None] * FF).T @ self.F
        third, yyFF = third.reshape(4, 4, 4), self.mean(self.y[:, None] ** 2 * FF).reshape(4, 4)
        second, yF = self.mean(FF).reshape(4, 4), self.mean(self.y[:, None] * self.F)
        m, P = Gamma.flatten(), torch.outer(Gamma.flatten(), Gamma.flatten())
        for gamma in sizes:
            # gradient (F . Gamma - y) F: its mean given Gamma is second Gamma - yF
            square = torch.einsum("ijkl,kl->ij", fourth, P) - 2 * torch.einsum("ijk,k->ij", third, m) + yyFF
            slope = second @ P - torch.outer(yF, m)
            of_means = second @ P @ second - second @ torch.outer(m, yF) - torch.outer(yF, m) @ second
            of_means = of_means + torch.outer(yF, yF)
            P = P - gamma * (slope + slope.T) + gamma**2 * (square / batch + (1 - 1 / batch) * of_means)
            m = m - gamma * (second @ m - yF)
        return m.reshape(2, 2), P.diagonal().reshape(2, 2)


@functools.cache
def enumeration(case):
    return Enumeration(*case)


def _problem(case):
    return Problem(torch.tensor(case[0], dtype=torch.float64), *case[1:])


def _gamma(seed):
    return torch.randn(2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_the_risk_of_any_gamma_meets_enumeration_to_twelve_digits(case):
    problem, every = _problem(case), enumeration(case)
    for seed in range(3):
        gamma = _gamma(seed)
        exact = every.mean((every.F @ gamma.flatten() - every.y) ** 2)
        assert torch.allclose(risk(problem, gamma, 1), exact, rtol=1e-12)
        assert torch.allclose(excess_risk(problem, gamma, 1) + minimal_risk(problem, 1), exact, rtol=1e-12)
    assert torch.allclose(every.mean(every.v**2), problem.h_tilde(1), rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_optimum_is_the_least_squares_solution_over_all_prompts(case):
    every = enumeration(case)
    system = every.F.T @ (every.weight[:, None] * every.F)
    best = torch.linalg.solve(system, every.mean(every.y[:, None] * every.F)).reshape(2, 2)
    assert torch.allclose(best, torch.diag(_problem(case).gamma_star(1)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_the_moments_of_v_meet_enumeration_to_twelve_digits(case):
    every, found = enumeration(case), moments(_problem(case), 1)
    v, beta = every.v, every.beta
    for table, left in ((found.vvvv, v**2), (found.bvvv, beta * v), (found.bbvv, beta**2)):
        exact = every.mean(left[:, :, None] * v[:, None, :] ** 2)
        assert torch.allclose(table.dense(found.powers), exact, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_expected_sgd_meets_enumeration_from_any_start(case, batch):
    """25 steps of changing size from a Gamma_0 that does not commute with H."""
    problem, every = _problem(case), enumeration(case)
    sizes = [0.02 / (1 + t % 3) for t in range(25)]
    mean, square = every.sgd(_gamma(7), sizes, batch)
    run = expected_sgd(problem, 1, explicit(sizes), init=_gamma(7), batch_size=batch)
    star = torch.diag(problem.gamma_star(1))
    assert torch.allclose(run.second_moments(), square - 2 * star * mean + star**2, rtol=1e-10)
    lam = problem.eigenvalues
    assert torch.allclose(run.excess[-1], lam @ (square - 2 * star * mean + star**2) @ problem.h_tilde(1), rtol=1e-10)
    at_9 = lam @ square @ problem.h_tilde(9) - 2 * problem.psi**2 * mean.diagonal() @ lam**2
    assert torch.allclose(run.excess_at(9)[-1], at_9 + problem.zero_risk - problem.sigma**2, rtol=1e-10)


def test_expected_sgd_from_zero_meets_enumeration_with_shared_moments():
    case = CASES[1]  # equal eigenvalues: two entries stand for the four
    _, square = enumeration(case).sgd(torch.zeros(2, 2).double(), [0.03] * 40, 1)
    run = expected_sgd(_problem(case), 1, constant(0.03, 40))
    star = torch.diag(_problem(case).gamma_star(1))
    mean, _ = enumeration(case).sgd(torch.zeros(2, 2).double(), [0.03] * 40, 1)
    assert len(run.recursion.eigenvalues) == 1
    assert torch.allclose(run.second_moments(), square - 2 * star * mean + star**2, rtol=1e-10)


def test_the_conditional_risk_meets_enumeration():
    """Given X, over beta, the noise and the query."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = torch.tensor(list(itertools.product(range(3), repeat=8)))
    z, weight = torch.from_numpy(nodes)[grid], torch.from_numpy(weights / weights.sum())[grid].prod(1)
    problem, X, gamma = _problem(CASES[0]), torch.tensor([[0.5, -1.0], [1.5, 0.2], [-0.3, 0.8]]).double(), _gamma(3)
    beta, x = problem.psi * z[:, :2], z[:, 2:4] * problem.eigenvalues.sqrt()
    labels = beta @ X.T + problem.sigma * z[:, 4:7]
    answer = (x * beta).sum(1) + problem.sigma * z[:, 7]
    errors = ((x @ gamma) * (labels @ X / 3)).sum(1) - answer
    assert torch.allclose(conditional_risk(problem, gamma, X), weight @ errors**2, rtol=1e-12)
