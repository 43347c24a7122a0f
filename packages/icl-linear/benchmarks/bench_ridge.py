"""Ridge on every prefix of a prompt at once beside a loop of solves."""

import torch
from icl_linear import prefix_ridge, ridge_coefficients
from shared_core.benchmark import Comparison, alternate, compare


def _solves(X, y, penalty):
    predictions = torch.zeros_like(y)
    for i in range(1, X.shape[1]):
        predictions[:, i] = (X[:, i] * ridge_coefficients(X[:, :i], y[:, :i], penalty)).sum(-1)
    return predictions


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(256, 64, 32, generator=generator, dtype=torch.float64)
    y = torch.randn(256, 64, generator=generator, dtype=torch.float64)
    question = "ridge on every prefix, 256 prompts of 64 points, d = 32, by {}"
    rows = []
    for method, name in (("recursive", "recursive least squares"), ("cholesky", "one Cholesky factor")):
        times = alternate(lambda method=method: prefix_ridge(X, y, 1.0, method), lambda: _solves(X, y, 1.0))
        same = bool((prefix_ridge(X, y, 1.0, method) - _solves(X, y, 1.0)).abs().max() < 1e-10)
        rows.append(
            compare(f"prefix-ridge-{method}", question.format(name), "loop of solves", *times, same_result=same)
        )
    return rows
