"""The data law: x uniform on {-1, +1}^d, y = prod_{j in S} x_j, perhaps with label noise; a stream, never stored."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from shared_core.errors import InputError
from torch import Tensor

from parity_sgd.checks import check_label_noise, check_seed, check_size, check_support
from parity_sgd.codes import all_codes, code_bytes, parity, unpack
from parity_sgd.streams import Stream

MULTINOMIAL_MAX_D = 14
"""Up to this dimension a batch larger than the cube is drawn as 2^d counts."""


class Batch(NamedTuple):
    """Packed points with a label times a multiplicity each; `total` is the batch size B."""

    codes: UInt8[Tensor, "n bytes"]
    weights: Float[Tensor, "n"]
    total: int


class SparseParity:
    """A stream of (x, y) with y the product of k of the d coordinates.

    Args:
        d: dimension.
        support: the k coordinates, any distinct ones of 0..d-1; alternatively
        k: the number of coordinates, and the support is the first k.
        label_noise: probability in [0, 1/2) with which a label is flipped.
        seed: seed of the stream that `sample` and iteration consume.
        device: where the data are made.

    Raises:
        InputError: for a support or a noise level outside these ranges.

    Example:
        >>> task = SparseParity(d=32, support=[3, 7, 21], label_noise=0.1, seed=0)
        >>> X, y = task.sample(1000)
        >>> X.shape, y.shape
        (torch.Size([1000, 32]), torch.Size([1000]))
    """

    def __init__(
        self,
        d: int,
        support: Sequence[int] | None = None,
        *,
        k: int | None = None,
        label_noise: float = 0.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.support = check_support(d, support, k)
        self.d, self.k, self.label_noise, self.seed = (
            d,
            len(self.support),
            check_label_noise(label_noise),
            check_seed(seed),
        )
        self.device = torch.device(device)
        self._points, self._flips = Stream(seed, "points", self.device), Stream(seed, "flips", self.device)

    def with_seed(self, seed: int) -> Self:
        """The same law with another stream, at its beginning."""
        return type(self)(self.d, self.support, label_noise=self.label_noise, seed=seed, device=self.device)

    def clean(self) -> Self:
        """The same points without label noise, at the beginning of the stream."""
        return type(self)(self.d, self.support, seed=self.seed, device=self.device)

    def sample(self, n: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
        """The next n points of the stream and their labels, all in {-1, +1}.

        Raises:
            InputError: if n < 1, or for more than 2^31 coordinates at once.
        """
        check_size("n * d", n, self.d)
        batch = self.rows(n)
        return unpack(batch.codes, self.d), batch.weights

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "d"], Float[Tensor, ""]]]:
        """Endless single examples, drawn 1024 at a time."""
        while True:
            yield from zip(*self.sample(1024), strict=True)

    def draw(self, steps: int, n: int) -> tuple[UInt8[Tensor, "steps n bytes"], Float[Tensor, "steps n"]]:
        """The next `steps` batches of n packed points with their labels; the stream is the same however it is cut.

        Raises:
            InputError: if n < 1.
        """
        if n < 1:
            raise InputError(f"the number of samples must be at least 1, got {n}")
        codes = self._points.bits(steps, n * code_bytes(self.d)).reshape(steps, n, -1)
        y = parity(codes.flatten(0, 1), self.support).view(steps, n)
        if self.label_noise:
            y = torch.where(self._flips.uniform(steps, n) < self.label_noise, -y, y)
        return codes, y

    def rows(self, n: int) -> Batch:
        """n independent packed points."""
        codes, y = self.draw(1, n)
        return Batch(codes[0], y[0], n)

    def counts(self, n: int) -> Batch:
        """The same law as `rows` for sums over the batch: how often each of the 2^d points occurs.

        Multinomial counts cost O(2^d) whatever n is. With label noise the weight is (unflipped - flipped) y.

        Raises:
            InputError: beyond d = 14, where 2^d points are no saving.
        """
        if self.d > MULTINOMIAL_MAX_D:
            raise InputError(f"counts need d <= {MULTINOMIAL_MAX_D}, got d = {self.d}")
        rng = np.random.default_rng(self._points.bits(1, 16)[0].tolist())
        counts = rng.multinomial(n, np.full(2**self.d, 0.5**self.d))
        if self.label_noise:
            counts = counts - 2 * rng.binomial(counts, self.label_noise)
        codes = all_codes(self.d, self.device)
        multiplicity = torch.from_numpy(counts).to(device=self.device, dtype=torch.float32)
        return Batch(codes, parity(codes, self.support) * multiplicity, n)

    def counts_pay(self, n: int) -> bool:
        """Whether a batch of n is cheaper as counts."""
        return self.d <= MULTINOMIAL_MAX_D and n > 2**self.d

    def batch(self, n: int) -> Batch:
        """A batch of n in whichever form is cheaper."""
        return self.counts(n) if self.counts_pay(n) else self.rows(n)

    def stream_words(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """States of the streams of points and of flips on a CPU, for loops that draw from them in place."""
        # without noise nothing is drawn from the second, and seeding it takes as long as a short run
        return self._points.words, self._flips.words if self.label_noise else np.zeros(4, np.uint64)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the stream stands."""
        return {"points": self._points.get_state(), "flips": self._flips.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another stream of the same law stood."""
        self._points.set_state(state["points"])
        self._flips.set_state(state["flips"])
