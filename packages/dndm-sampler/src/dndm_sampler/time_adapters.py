"""How a denoiser is told the time: an index of its training steps, or one time for all rows of a call."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor, nn

from dndm_sampler.denoising import Denoiser, as_split

TimeIndex = Literal["zero", "one", "unit"]
Layer = Callable[..., Any]


class _Retimed(nn.Module):
    """A denoiser with a change in how its time is passed; a split denoiser stays split."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def call(self, layer: Layer, x: Tensor, t: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
        """Call the denoiser, or its `hidden`, with the time it takes."""
        raise NotImplementedError

    def forward(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], **kwargs: Any) -> Tensor:
        """Logits."""
        return self.call(self.denoiser, x, t, kwargs)

    def __getattr__(self, name: str) -> Any:
        # there only where the denoiser has them, so that `as_split` tells the truth
        if name in ("hidden", "head"):
            inner = super().__getattr__("denoiser") if "denoiser" in self._modules else self.__dict__["denoiser"]
            split = as_split(inner)
            if split is not None:
                return split.head if name == "head" else self._hidden
        return super().__getattr__(name)

    def _hidden(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        return self.call(self.denoiser.hidden, x, t, kwargs)  # type: ignore[attr-defined]  # checked in __getattr__


class TimestepIndex(_Retimed):
    """Tells a denoiser the index of its training step; see `timestep_index`."""

    def __init__(self, denoiser: Denoiser, num_train_steps: int, index: TimeIndex) -> None:
        super().__init__(denoiser)
        self.num_train_steps, self.index = num_train_steps, index

    def call(self, layer: Layer, x: Tensor, t: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
        """Call with the index."""
        step = (t * self.num_train_steps).round().clamp(1, self.num_train_steps)
        if self.index == "unit":
            return layer(x, step / self.num_train_steps, **kwargs)
        return layer(x, step.long() - int(self.index == "zero"), **kwargs)


def timestep_index(denoiser: Denoiser, num_train_steps: int, index: TimeIndex = "zero") -> TimestepIndex:
    """Tell a denoiser that was trained on T steps the step it stands at.

    At the transition time tau of a position the network sees x_tau, which holds noise there: noise level tau of
    1..T. Models with an embedding table usually count it from 0 (D3PM, RDM: index i is noise level i + 1). The
    sampler's number of steps may differ from T; the nearest training step is told.

    Args:
        denoiser: takes one index a row.
        num_train_steps: T of the training.
        index: `zero` counts 0..T-1 (int64), `one` 1..T (int64), `unit` tells tau/T in (0, 1] (float).

    Raises:
        InputError: if T < 1 or the index is unknown.
    """
    if num_train_steps < 1:
        raise InputError(f"num_train_steps must be at least 1, got {num_train_steps}")
    if index not in ("zero", "one", "unit"):
        raise InputError(f"index must be zero, one or unit, got {index!r}")
    return TimestepIndex(denoiser, num_train_steps, index)


class ScalarTime(_Retimed):
    """Calls a denoiser that takes one time for all rows once for each distinct time; see `scalar_time`.

    Attributes:
        calls: calls of the wrapped denoiser so far.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.calls = 0

    def call(self, layer: Layer, x: Tensor, t: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
        """Call for each group of rows with one time."""
        times, group = t.unique(return_inverse=True)
        self.calls += len(times)
        if len(times) == 1:
            return layer(x, times[0], **kwargs)
        parts, places = [], []
        for number, time in enumerate(times):
            rows = (group == number).nonzero()[:, 0]
            per_row = {key: value[rows] if _is_per_row(value, len(x)) else value for key, value in kwargs.items()}
            parts.append(layer(x[rows], time, **per_row))
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]


def scalar_time(denoiser: Denoiser) -> ScalarTime:
    """Let a denoiser `(x, t)` with a single time t (a 0-d tensor) stand where rows have their own times.

    Rows with equal times are called together, and the result is what each row would get alone. One network call of the
    sampler is then as many calls of the denoiser as there are distinct times (`calls` counts them); sample with
    `batch_times="shared"` to have one.

    Args:
        denoiser: takes one time for all rows.
    """
    return ScalarTime(denoiser)


def _is_per_row(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows
