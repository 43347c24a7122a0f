"""The peer: the same algorithm as a plain PyTorch autograd loop, the way a paper's reader writes it in ten minutes.

Gradients only for W, the batch drawn in one call (of randint, rand, randn().sign() and bernoulli_ the fastest, as
float32 at once), a power with an integer exponent, the update in place; every test set is drawn once per dimension and
shared by all runs.
"""

import math

import torch


def draw(n: int, d: int, k: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.randint(0, 2, (n, d), generator=generator, dtype=torch.float32) * 2 - 1
    return X, X[:, :k].prod(1)


def minus_gradient(W: torch.Tensor, a: torch.Tensor, k: int, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = (1 - y * (((X @ W.T) ** k) @ a)).mean()
    return -torch.autograd.grad(loss, W)[0]


def step(W: torch.Tensor, a: torch.Tensor, k: int, X: torch.Tensor, y: torch.Tensor, rho: float, eta: float) -> None:
    G = minus_gradient(W, a, k, X, y)
    with torch.no_grad():
        W.mul_(1 - eta).add_(torch.where(G.abs() >= rho, G.sign(), 0.0), alpha=eta)


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
