"""Counter-based uniforms: the draw for (row, step, position) does not depend on the other rows or on the device.

A row's sample is then the same alone or in a batch, and finished rows can be dropped without shifting anybody's draws.
The hash is SplitMix64's finaliser (Steele, Lea, Flood 2014), computed in int64 arithmetic, which wraps as needed.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB

NOISE, TIMES, TOKENS, MOVES = range(4)  # one stream for each kind of draw


class CounterUniforms:
    """Uniforms in [0, 1) with 53 random bits, keyed by one draw from `generator`.

    Args:
        generator: the source of the key; None takes torch's global generator.
        device: where the uniforms are made.
    """

    def __init__(self, generator: torch.Generator | None, device: torch.device) -> None:
        where = generator.device if generator is not None else "cpu"
        self.key = int(torch.randint(2**62, (1,), generator=generator, device=where))
        self.device = device

    def keys(self, stream: int, rows: Int[Tensor, "batch"], length: int) -> Int[Tensor, "batch length"]:
        """One key for every position of the given rows and one kind of draw; `draw` turns keys into uniforms."""
        start = _signed(self.key + stream * _GOLDEN)
        row_keys = _mix(_mix(torch.tensor(start, device=self.device)) + _GOLDEN * (rows + 1))
        position = torch.arange(length, device=self.device)
        return _mix(row_keys[:, None] + _GOLDEN * (position + 1))

    def grid(self, stream: int, rows: Int[Tensor, "batch"], length: int) -> Float[Tensor, "batch length"]:
        """One uniform for every position of the given rows."""
        return draw(self.keys(stream, rows, length), 0)


def draw(keys: Int[Tensor, "*shape"], step: int) -> Float[Tensor, "*shape"]:
    """The uniforms of one step, in [0, 1)."""
    bits = _shift(_mix(keys + _signed(_GOLDEN * (step + 1))), 11)
    if bits.device.type == "mps":  # no float64 there
        return (bits >> 29).float() * 2.0**-24
    return bits.double() * 2.0**-53


def _signed(value: int) -> int:
    """Bring a python integer, which does not wrap, into int64."""
    return (value + 2**63) % 2**64 - 2**63


def _shift(value: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Logical right shift (torch's `>>` copies the sign)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)
