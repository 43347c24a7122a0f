"""The peer: the same algorithm as a plain PyTorch autograd loop, the way a paper's reader writes it in ten minutes.

Gradients only for W, the batch drawn in one call, a power with an integer exponent, the update in place; every test
set is drawn once per dimension and shared by all runs.
"""

import math

import torch


def draw(n: int, d: int, k: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.randint(0, 2, (n, d), generator=generator).float() * 2 - 1
    return X, X[:, :k].prod(1)


def step(W: torch.Tensor, a: torch.Tensor, k: int, X: torch.Tensor, y: torch.Tensor, rho: float, eta: float) -> None:
    loss = (1 - y * (((X @ W.T) ** k) @ a)).mean()
    (gradient,) = torch.autograd.grad(loss, W)
    with torch.no_grad():
        move = torch.where(gradient.abs() >= rho, gradient.sign(), 0.0)
        W.mul_(1 - eta).sub_(move, alpha=eta)


def start(m: int, d: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    W = torch.randint(0, 2, (m, d), generator=generator).float() * 2 - 1
    a = torch.randint(0, 2, (m,), generator=generator).float() * 2 - 1
    return W.requires_grad_(), a


def run(
    k: int, d: int, batch: int, width: int, steps: int, seed: int, test: tuple[torch.Tensor, torch.Tensor], eta: float
) -> float:
    generator = torch.Generator().manual_seed(seed)
    W, a = start(width, d, generator)
    for _ in range(steps):
        X, y = draw(batch, d, k, generator)
        step(W, a, k, X, y, 0.5 * math.factorial(k), eta)
    with torch.no_grad():
        X, y = test
        return float((y * (((X @ W.T) ** k) @ a) > 0).float().mean())
