"""The exact learning curve beside the Monte Carlo it replaces, and beside the same recursion with dense products."""

import torch
from icl_linear import excess_risk, expected_sgd, make_problem, sgd
from icl_linear.bound import theorem_step
from icl_linear.prompt_moments import moments
from icl_linear.schedule import geometric
from shared_core.benchmark import Comparison, alternate, compare, seconds


def _dense(problem, context, schedule):
    """The recursion as it is written down: S M by a d x d product (Gamma_0 = 0)."""
    lam, g = problem.eigenvalues, problem.gamma_star(context)
    found = moments(problem, context)
    M, C, B = (table.dense(found.powers) for table in (found.vvvv, found.bvvv, found.bbvv))
    W = lam[:, None] * problem.h_tilde(context)

    def quad(A):
        return lam[:, None] * (lam @ A) + 2 * lam[:, None] ** 2 * A

    noise = problem.sigma**2 * W + quad(B - 2 * g[:, None] * C + g[:, None] ** 2 * M)
    z, S, D = C - g[:, None] * M, torch.diag(g**2), -g
    for gamma, count in schedule.phases:
        for _ in range(count):
            second = quad(S @ M) - 2 * quad(D[:, None] * z) + noise
            S, D = S - 2 * gamma * W * S + gamma**2 * second, D * (1 - gamma * W.diagonal())
    return (W * S).sum()


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    problem, context = make_problem("power:2", 64), 50
    step = theorem_step(problem, context)
    long, short = geometric(step, 100_000), geometric(step, 2000)
    curve = seconds(lambda: expected_sgd(problem, context, long))
    exact = float(expected_sgd(problem, context, short).excess)

    def monte_carlo():
        gammas = sgd(problem, context, short, torch.Generator().manual_seed(0), runs=64).double()
        return torch.stack([excess_risk(problem, gamma, context) for gamma in gammas])

    values = monte_carlo()
    error = float(values.std()) / 8
    agree = abs(float(values.mean()) - exact) < 4 * error
    needed = (error / (1e-3 * exact)) ** 2  # repetitions of 64 runs for a standard error of 0.1 %
    ours, theirs = alternate(lambda: expected_sgd(problem, context, short), monte_carlo, 3)
    times = [time * needed for time in theirs]
    dense = alternate(lambda: expected_sgd(problem, context, short), lambda: _dense(problem, context, short), 3)
    same = abs(float(_dense(problem, context, short)) / exact - 1) < 1e-9
    return [
        compare("curve", "expected excess risk after T = 2000, d = 64, to 0.1 %", "our own sampled runs (extrapolated)",
                ours, times, same_result=agree),
        compare("curve-dense", "exact recursion, T = 2000, d = 64", "the same recursion with dense products", *dense,
                same_result=same),
        compare("curve-100k", "exact learning curve, T = 100000, d = 64", "dense products (extrapolated)",
                [curve], [sorted(dense[1])[1] * 50], same_result=same),
    ]  # fmt: skip
