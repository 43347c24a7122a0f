"""Streams of random bits: one generator for each thing that is drawn, so that one does not consume another's numbers.

On a CPU the bits come from SFC64, inlined into the compiled loops: a 64-bit word takes about a nanosecond, a tenth of
what a call of a general generator costs for the small batches of a sweep. Other devices use torch's own generator.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parity_sgd.checks import check_seed
from parity_sgd.compiling import compiled

StreamName = Literal["points", "flips", "weights", "evaluation"]
STREAMS = ("points", "flips", "weights", "evaluation")
_ONE, _THREE, _ELEVEN, _LEFT, _RIGHT = (np.uint64(number) for number in (1, 3, 11, 24, 40))
_UNIT = 2.0**-53


@compiled(inline="always")
def next_word(state):  # type: ignore[no-untyped-def]
    """The next 64 bits of SFC64 (Doty-Humphrey); the four words of `state` are those of numpy's SFC64."""
    word = state[0] + state[1] + state[3]
    state[3] += _ONE
    state[0] = state[1] ^ (state[1] >> _ELEVEN)
    state[1] = state[2] + (state[2] << _THREE)
    state[2] = ((state[2] << _LEFT) | (state[2] >> _RIGHT)) + word
    return word


@compiled()
def fill_words(state, words):  # type: ignore[no-untyped-def]
    """words[i] = the next word of the stream."""
    for i in range(words.shape[0]):
        words[i] = next_word(state)


@compiled()
def fill_uniform(state, numbers):  # type: ignore[no-untyped-def]
    """numbers[i] uniform on [0, 1), 53 bits of one word each."""
    for i in range(numbers.shape[0]):
        numbers[i] = (next_word(state) >> _ELEVEN) * _UNIT


class Stream:
    """One stream of bits; seeded when it is first used.

    Args:
        seed: seed of the run.
        name: what is drawn from it.
        device: where its numbers are made.
    """

    def __init__(self, seed: int, name: StreamName, device: torch.device) -> None:
        self._seed, self._name, self._device = seed, name, device
        self._words: npt.NDArray[np.uint64] | None = None
        self._generator: torch.Generator | None = None

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """State of the CPU's generator, four words; drawing changes it in place."""
        if self._words is None:
            generator = np.random.SFC64(np.random.SeedSequence([self._seed, STREAMS.index(self._name)]))
            self._words = np.array(generator.state["state"]["state"], dtype=np.uint64)
        return self._words

    @property
    def generator(self) -> torch.Generator:
        """The generator of another device."""
        if self._generator is None:
            self._generator = stream_generator(self._seed, self._name, self._device)
        return self._generator

    def bits(self, rows: int, row_bytes: int) -> UInt8[Tensor, "rows row_bytes"]:
        """Random bytes; every row consumes whole words, so that rows do not depend on how many are drawn at a time."""
        words = -(-row_bytes // 8)
        if self._device.type == "cpu":
            drawn = np.empty((rows, words), np.uint64)
            fill_words(self.words, drawn.reshape(-1))
            return torch.from_numpy(drawn.view(np.uint8))[:, :row_bytes]
        found = torch.empty(rows, words, dtype=torch.int64, device=self._device)
        found.random_(-(2**63), None, generator=self.generator)
        return found.view(torch.uint8)[:, :row_bytes]

    def uniform(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """Numbers uniform on [0, 1)."""
        if self._device.type == "cpu":
            numbers = np.empty((rows, columns))
            fill_uniform(self.words, numbers.reshape(-1))
            return torch.from_numpy(numbers)
        return torch.rand(rows, columns, generator=self.generator, device=self._device)

    def get_state(self) -> Tensor:
        """Where the stream stands."""
        if self._device.type == "cpu":
            return torch.from_numpy(self.words.view(np.int64).copy())
        return self.generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on where another stream stood."""
        if self._device.type == "cpu":
            self.words[:] = state.numpy().view(np.uint64)
        else:
            self.generator.set_state(state)


def stream_generator(seed: int, stream: StreamName, device: str | torch.device = "cpu") -> torch.Generator:
    """torch's generator for one of the things that are drawn."""
    state = np.random.SeedSequence([check_seed(seed), STREAMS.index(stream)]).generate_state(1, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]))
