"""The two-layer network f(x) = sum_r a_r <w_r, x>^k, its random start, and the good network of the proof."""

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor, nn

from parity_sgd.codes import all_codes, random_codes, unpack


def integer_power(z: Tensor, exponent: int) -> Tensor:
    """z^exponent by repeated products; exact for integers that fit the type, unlike a power by logarithms."""
    result = torch.ones_like(z)
    for _ in range(exponent):
        result = result * z
    return result


class PolyParityNet(nn.Module):
    """f(x) = sum_r a_r <w_r, x>^k with trainable W (m, d) and fixed a (m,): no bias, no factor 1/m.

    Args:
        W: first layer, one row a neuron.
        a: second layer, entries -1 or +1; a buffer, never trained.
        k: degree of the activation, the size of the parity.

    Raises:
        InputError: if the shapes do not fit.

    Example:
        >>> network = PolyParityNet.random(d=16, k=3, m=128, seed=0)
        >>> network(torch.ones(5, 16)).shape
        torch.Size([5])
    """

    a: Tensor

    def __init__(self, W: Float[Tensor, "m d"], a: Float[Tensor, "m"], k: int) -> None:
        super().__init__()
        if W.ndim != 2 or a.shape != W.shape[:1]:
            raise InputError(f"W must be (m, d) and a (m,), got {tuple(W.shape)} and {tuple(a.shape)}")
        self.W = nn.Parameter(W)
        self.register_buffer("a", a)
        self.k = k

    @classmethod
    def random(cls, d: int, k: int, m: int, seed: int = 0, device: str | torch.device = "cpu") -> Self:
        """The paper's start: every entry of W and a uniform on {-1, +1}."""
        W, a = random_weights(d, m, torch.Generator(device).manual_seed(seed))
        return cls(W, a, k)

    @classmethod
    def good(cls, d: int, support: Sequence[int]) -> Self:
        """The good network: one neuron per b in {-1, +1}^k, w = b on the support, 0 elsewhere, a = prod b.

        It computes f(x) = 2^k k! prod_{j in S} x_j for every x.
        """
        k = len(support)
        patterns = unpack(all_codes(k), k)
        W = torch.zeros(2**k, d)
        W[:, list(support)] = patterns
        return cls(W, patterns.prod(1), k)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """The network's value; the predicted label is its sign."""
        return integer_power(x @ self.W.T, self.k) @ self.a


def random_weights(d: int, m: int, generator: torch.Generator) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m"]]:
    """W and a with independent uniform signs."""
    W, a = stacked_weights(d, m, [generator])
    return W[0].contiguous(), a[0].contiguous()


def stacked_weights(
    d: int, m: int, generators: Sequence[torch.Generator]
) -> tuple[Float[Tensor, "s m d"], Float[Tensor, "s m"]]:
    """One start a generator, the same as each alone; signs are made from the bits of all at once."""
    drawn = [(random_codes(m, d, generator), random_codes(m, 1, generator)) for generator in generators]
    W, a = (torch.stack(codes) for codes in zip(*drawn, strict=True))
    return unpack(W, d), unpack(a, 1)[..., 0]


def correlation_loss(y: Float[Tensor, "n"], f: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean of 1 - y f(x), the paper's loss: unbounded below, its gradient is -y times that of f."""
    return (1 - y * f).mean()
