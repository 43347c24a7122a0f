"""What else finds a sparse parity: elimination over GF(2), brute force, and plain SGD on two networks.

Without label noise elimination beats every gradient method by far: d + 10 samples and a millisecond.
"""

from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from parity_sgd.network import correlation_loss, integer_power, random_weights

BRUTE_FORCE_MAX_SUPPORTS = 10**9


def gaussian_elimination(X: Float[Tensor, "n d"], y: Float[Tensor, "n"]) -> tuple[tuple[int, ...], int] | None:
    """Solve XOR_{j in S} x_j + c = y over GF(2) for S and c, by elimination on rows held as Python integers.

    Returns:
        The support and the sign (+1, or -1 where labels are the complement of the parity), or None where no parity of
        any size fits every row, as with a single flipped label, or where several do.
    """
    n, d = X.shape
    # Bit j of a row is coordinate j, bit d the constant, bit d + 1 the label.
    columns = torch.cat([X < 0, torch.ones(n, 1, dtype=torch.bool), (y < 0)[:, None]], dim=1).cpu().numpy()
    packed = np.packbits(columns, axis=1, bitorder="little")
    pivots: dict[int, int] = {}
    left = (1 << (d + 1)) - 1
    for line in packed:
        row = int.from_bytes(line.tobytes(), "little")
        for bit, pivot in pivots.items():
            if row >> bit & 1:
                row ^= pivot
        if not row & left:
            if row:  # 0 = 1
                return None
            continue
        bit = (row & left).bit_length() - 1
        pivots = {b: p ^ row if p >> bit & 1 else p for b, p in pivots.items()} | {bit: row}
    if len(pivots) < d + 1:
        return None
    solution = {bit for bit, pivot in pivots.items() if pivot >> (d + 1) & 1}
    return tuple(sorted(solution - {d})), -1 if d in solution else 1


def brute_force(X: Float[Tensor, "n d"], y: Float[Tensor, "n"], k: int) -> tuple[tuple[int, ...], float]:
    """The support of size k whose product correlates most with y, over all C(d, k), and that correlation.

    Raises:
        InputError: for k outside 1..d, or more than 10^9 supports.
    """
    n, d = X.shape
    check_brute_force(d, k)
    if k == 1:
        correlations = X.T @ y / n
        best = int(correlations.abs().argmax())
        return (best,), float(correlations[best])
    found, value = tuple(range(k)), torch.tensor(0.0)
    for prefix in combinations(range(d - 2), k - 2):
        start = prefix[-1] + 1 if prefix else 0
        rest = X[:, start:]
        # One product gives every way to complete the prefix by two more coordinates.
        pairs = ((rest * (y * X[:, list(prefix)].prod(1))[:, None]).T @ rest / n).triu(1)
        best = int(pairs.abs().argmax())
        i, j = divmod(best, pairs.shape[1])
        if pairs[i, j].abs() > value.abs():
            found, value = (*prefix, start + i, start + j), pairs[i, j]
    return found, float(value)


def check_brute_force(d: int, k: int) -> None:
    """Refuse what would take days.

    Raises:
        InputError: for k outside 1..d, or more than 10^9 supports.
    """
    if not 1 <= k <= d:
        raise InputError(f"k must be in 1..d = 1..{d}, got {k}")
    if comb(d, k) > BRUTE_FORCE_MAX_SUPPORTS:
        raise InputError(
            f"brute force over C({d}, {k}) = {comb(d, k):.2g} supports is beyond {BRUTE_FORCE_MAX_SUPPORTS:.0e}"
        )


def sgd_same_network(
    X: Float[Tensor, "n d"],
    y: Float[Tensor, "n"],
    k: int,
    *,
    width: int,
    batch_size: int,
    steps: int,
    learning_rate: float,
    decay: float = 0.0,
    seed: int = 0,
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m"]]:
    """SGD without the sign on the correlation loss of f(x) = sum_r a_r <w_r, x>^k, rows of X drawn at random.

    Gradients grow like |w|^(k-1): from a +-1 start a learning rate of 0.1 diverges for k >= 3, and the weights
    returned are then not finite.
    """
    generator = torch.Generator(X.device).manual_seed(seed)
    W, a = random_weights(X.shape[1], width, generator)
    for _ in range(steps):
        rows = torch.randint(len(X), (batch_size,), generator=generator, device=X.device)
        x, labels = X[rows], y[rows]
        H = integer_power(x @ W.T, k - 1) * labels[:, None]
        G = (H.T @ x) * (a * (k / batch_size))[:, None]
        W = (1 - decay * learning_rate) * W + learning_rate * G
        if not bool(torch.isfinite(W).all()):
            break
    return W, a


class ReluNet(torch.nn.Module):
    """f(x) = sum_r a_r relu(<w_r, x> + b_r) + c, as in the hinge-loss experiments on parities with SGD."""

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        uniform = [torch.rand(shape, generator=generator) * 2 - 1 for shape in ((width, d), (width,), (width,))]
        self.W, self.b = torch.nn.Parameter(uniform[0] / d**0.5), torch.nn.Parameter(uniform[1] / d**0.5)
        self.a, self.c = torch.nn.Parameter(uniform[2] / width**0.5), torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """The network's value."""
        return torch.relu(x @ self.W.T + self.b) @ self.a + self.c


def sgd_relu_hinge(
    X: Float[Tensor, "n d"],
    y: Float[Tensor, "n"],
    *,
    width: int = 256,
    batch_size: int = 64,
    steps: int = 20000,
    learning_rate: float = 0.1,
    decay: float = 1e-3,
    seed: int = 0,
) -> ReluNet:
    """SGD with hinge loss and weight decay on both layers of a ReLU network: the usual way to train on parities."""
    generator = torch.Generator().manual_seed(seed)
    network = ReluNet(X.shape[1], width, generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, weight_decay=decay)
    for _ in range(steps):
        rows = torch.randint(len(X), (batch_size,), generator=generator)
        loss = torch.relu(1 - y[rows] * network(X[rows])).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return network


def autograd_gradient(
    W: Float[Tensor, "m d"], a: Float[Tensor, "m"], k: int, X: Float[Tensor, "n d"], y: Float[Tensor, "n"]
) -> Float[Tensor, "m d"]:
    """Minus the gradient of the mean correlation loss by torch's autograd, the reference of `batch_gradient`."""
    leaf = W.detach().clone().requires_grad_()
    loss = correlation_loss(y, integer_power(X @ leaf.T, k) @ a)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return -gradient


def support_by_weights(W: Float[Tensor, "m d"], k: int) -> tuple[int, ...]:
    """The k coordinates with the largest mean |w|."""
    return tuple(sorted(W.detach().abs().mean(0).topk(k).indices.tolist()))
