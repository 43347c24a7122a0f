"""Packed points of the cube {-1, +1}^d: eight coordinates a byte, a set bit is the coordinate -1.

One convention everywhere: bit 0 is +1 and bit 1 is -1, so that a product of coordinates is the XOR of their bits. A
coin is one random bit instead of one random float, which is most of what a batch costs when it is drawn naively.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parity_sgd.lookup import parities


def code_bytes(d: int) -> int:
    """Bytes of one packed point of dimension d."""
    return (d + 7) // 8


def random_codes(n: int, d: int, generator: torch.Generator, align: int = 1) -> UInt8[Tensor, "n bytes"]:
    """n packed points, uniform on {-1, +1}^d, on the generator's device; spare bits of the last byte are random.

    Args:
        n: number of points.
        d: dimension.
        generator: source of the bits.
        align: bytes to which each point's length is rounded up; with 8 every point consumes whole 64-bit words, and
            the points drawn do not depend on how many are drawn at a time.
    """
    width = -(-code_bytes(d) // align) * align
    words = torch.empty((n * width + 7) // 8, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)  # every one of the 64 bits is used
    return words.view(torch.uint8)[: n * width].view(n, width)


def unpack(
    codes: UInt8[Tensor, "*batch bytes"], d: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch d"]:
    """Coordinates in {-1, +1} of packed points."""
    table = torch.arange(256, dtype=torch.int64, device=codes.device)[:, None] >> torch.arange(8, device=codes.device)
    signs = (1 - 2 * (table & 1)).to(dtype)
    return signs[codes.to(torch.int64)].flatten(-2)[..., :d]


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


def parity(codes: UInt8[Tensor, "n bytes"], support: Sequence[int]) -> Float[Tensor, "n"]:
    """prod_{j in support} x_j of every packed point, in {-1, +1}."""
    mask = torch.zeros(codes.shape[1], dtype=torch.uint8)
    for j in support:
        mask[j // 8] |= 1 << (j % 8)
    if codes.device.type == "cpu":
        return torch.from_numpy(parities(codes.numpy(), mask.numpy()))
    bits = torch.zeros(len(codes), dtype=torch.uint8, device=codes.device)
    for byte in mask.nonzero().flatten().tolist():
        bits ^= codes[:, byte] & int(mask[byte])
    for shift in (4, 2, 1):  # XOR of the eight bits of a byte
        bits ^= bits >> shift
    return 1 - 2 * (bits & 1).to(torch.float32)
