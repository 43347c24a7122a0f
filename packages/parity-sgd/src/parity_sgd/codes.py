"""Packed points of the cube {-1, +1}^d: eight coordinates a byte, a set bit is the coordinate -1.

One convention everywhere: bit 0 is +1 and bit 1 is -1, so that a product of coordinates is the XOR of their bits. A
coin is one random bit instead of one random float, which is most of what a batch costs when it is drawn naively.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parity_sgd.lookup import parities


def code_bytes(d: int) -> int:
    """Bytes of one packed point of dimension d."""
    return (d + 7) // 8


def random_codes(n: int, d: int, generator: torch.Generator) -> UInt8[Tensor, "n bytes"]:
    """n packed points, uniform on {-1, +1}^d, on the generator's device; spare bits of the last byte are random.

    Args:
        n: number of points.
        d: dimension.
        generator: source of the bits.
    """
    width = code_bytes(d)
    words = torch.empty((n * width + 7) // 8, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)  # every one of the 64 bits is used
    return words.view(torch.uint8)[: n * width].view(n, width)


def unpack(
    codes: UInt8[Tensor, "*batch bytes"], d: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch d"]:
    """Coordinates in {-1, +1} of packed points."""
    signs = _signs_of_bytes(dtype, codes.device)
    if codes.device.type == "cpu" and dtype == torch.float32:
        # numpy's look-up stays in this thread; threads of torch's would go on spinning beside the compiled runs
        return torch.from_numpy(signs.numpy().take(codes.numpy(), axis=0)).flatten(-2)[..., :d]
    return signs[codes.to(torch.int64)].flatten(-2)[..., :d]


@lru_cache(maxsize=8)
def _signs_of_bytes(dtype: torch.dtype, device: torch.device) -> Tensor:
    bits = torch.arange(256, dtype=torch.int64, device=device)[:, None] >> torch.arange(8, device=device)
    return (1 - 2 * (bits & 1)).to(dtype)


def pack(X: Float[Tensor, "n d"]) -> UInt8[Tensor, "n bytes"]:
    """Packed form of points with coordinates in {-1, +1}; spare bits are 0."""
    n, d = X.shape
    bits = torch.zeros(n, 8 * code_bytes(d), dtype=torch.uint8, device=X.device)
    bits[:, :d] = (X < 0).to(torch.uint8)
    weights = 1 << torch.arange(8, device=X.device)
    return (bits.view(n, -1, 8) * weights).sum(-1).to(torch.uint8)


def all_codes(d: int, device: torch.device | str = "cpu") -> UInt8[Tensor, "two_to_d bytes"]:
    """Every point of the cube once, in the order of its bits as a number."""
    numbers = torch.arange(2**d, dtype=torch.int64, device=device)
    return ((numbers[:, None] >> (8 * torch.arange(code_bytes(d), device=device))) & 255).to(torch.uint8)


def support_mask(support: Sequence[int], size: int) -> npt.NDArray[np.uint8]:
    """Packed point of `size` bytes whose set bits are the support."""
    mask = np.zeros(size, np.uint8)
    for j in support:
        mask[j // 8] |= 1 << (j % 8)
    return mask


def parity(codes: UInt8[Tensor, "n bytes"], support: Sequence[int]) -> Float[Tensor, "n"]:
    """prod_{j in support} x_j of every packed point, in {-1, +1}."""
    mask = support_mask(support, codes.shape[1])
    if codes.device.type == "cpu":
        return torch.from_numpy(parities(codes.numpy(), mask))
    bits = torch.zeros(len(codes), dtype=torch.uint8, device=codes.device)
    for byte in mask.nonzero()[0].tolist():
        bits ^= codes[:, byte] & int(mask[byte])
    for shift in (4, 2, 1):  # XOR of the eight bits of a byte
        bits ^= bits >> shift
    return 1 - 2 * (bits & 1).to(torch.float32)
