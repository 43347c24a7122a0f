"""Noise schedules and the law of the transition time they imply.

A schedule is the survival probability alpha of a token, falling from alpha(0) = 1 (data) to alpha(1) = 0 (noise). The
transition time of a token has P(tau = t) = alpha_{t-1} - alpha_t on T steps, or the density -alpha'(u) on (0, 1).
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from scipy.special import betaincc, betaincinv
from shared_core.errors import InputError
from torch import Tensor

AlphaFunction = Callable[[Tensor], Tensor]
_OFFICIAL_OFFSET = 0.08  # s in the released code's "cosine"


def _cosine2(u: Tensor) -> Tensor:
    return torch.cos(math.pi * u / 2) ** 2


def _official_cosine(u: Tensor) -> Tensor:
    return _cosine2((u + _OFFICIAL_OFFSET) / (1 + _OFFICIAL_OFFSET)) / math.cos(
        math.pi / 2 * _OFFICIAL_OFFSET / (1 + _OFFICIAL_OFFSET)
    ) ** 2  # fmt: skip


_ALPHA: dict[str, AlphaFunction] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: torch.cos(math.pi * u / 2),
    "cosine2": _cosine2,
    "official_cosine": _official_cosine,
}
_QUANTILE: dict[str, AlphaFunction] = {
    "linear": lambda v: v,
    "cosine": lambda v: torch.arccos(1 - v) * 2 / math.pi,
    "cosine2": lambda v: torch.arcsin(v.sqrt()) * 2 / math.pi,
}
SCHEDULE_NAMES = (*_ALPHA, "official_linear_lambda", "beta:A,B", "@FILE.json")


class TransitionSchedule:
    """A schedule by name, Beta law, table or function.

    Args:
        kind: `linear` (1-u), `cosine` (cos(pi u/2)), `cosine2` (its square), `beta` (1 - I_u(a, b)); a sequence
            alpha_0..alpha_T (linear in between); or a function alpha(u) of a float64 tensor in [0, 1].
            `official_cosine` and `official_linear_lambda` are what the released code calls cosine and linear lambda.
        a: first parameter of the Beta law of tau/T.
        b: second parameter.

    Raises:
        InputError: if the name is unknown, a or b is not positive, or alpha does not fall from 1 to 0.

    Example:
        >>> TransitionSchedule("linear").pmf(4).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(
        self, kind: str | Sequence[float] | Tensor | AlphaFunction = "linear", a: float = 0.0, b: float = 0.0
    ) -> None:
        self.name = kind if isinstance(kind, str) else "given"
        self._quantile: AlphaFunction | None = None
        if isinstance(kind, str):
            self._alpha = self._named(kind, a, b)
        elif callable(kind):
            self._alpha = kind
        else:
            self._alpha = _interpolation(torch.as_tensor(kind, dtype=torch.float64))
        if self.name != "official_linear_lambda":
            check_alphas(self._alpha(torch.linspace(0, 1, 257, dtype=torch.float64)))

    def _named(self, kind: str, a: float, b: float) -> AlphaFunction:
        if kind == "beta":
            if not (0 < a < math.inf and 0 < b < math.inf):
                raise InputError(f"schedule: beta needs a > 0 and b > 0, finite, got a = {a:g}, b = {b:g}")
            self.name = f"beta:{a:g},{b:g}"
            self._quantile = lambda v: torch.from_numpy(betaincinv(a, b, v.numpy()))
            return lambda u: torch.from_numpy(betaincc(a, b, u.numpy()))
        if kind == "official_linear_lambda":
            return _no_continuous_alpha
        if kind not in _ALPHA:
            raise InputError(f"schedule: there is no {kind!r}; use one of {', '.join(SCHEDULE_NAMES)}")
        self._quantile = _QUANTILE.get(kind)
        return _ALPHA[kind]

    @classmethod
    def parse(cls, text: str) -> "TransitionSchedule":
        """Read a schedule as typed on a command line: a name, `beta:17,4`, or `@FILE.json` with a list of alphas.

        Raises:
            InputError: naming what is wrong.
        """
        if text.startswith("@"):
            try:
                values = json.loads(Path(text[1:]).read_text(encoding="utf-8"))
                return cls([float(value) for value in values])
            except (ValueError, TypeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{text[1:]}: expected a JSON list of alphas from 1 down to 0") from error
        kind, _, numbers = text.partition(":")
        if kind != "beta":
            return cls(text)
        try:
            a, b = (float(part) for part in numbers.split(","))
        except ValueError:
            raise InputError(f"schedule: expected beta:A,B with two numbers, got {text!r}") from None
        return cls("beta", a=a, b=b)

    def alpha(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """alpha(u) for u = t/T in [0, 1], float64 on the device of `u`."""
        return self._alpha(u.detach().to("cpu", torch.float64)).to(u.device).clamp(0, 1)

    def alphas(self, num_steps: int) -> Float[Tensor, "num_steps_plus_1"]:
        """alpha_0..alpha_T, float64 on the CPU.

        Raises:
            InputError: if num_steps < 1.
        """
        if num_steps < 1:
            raise InputError(f"num_steps must be at least 1, got {num_steps}")
        if self.name == "official_linear_lambda":
            return _linear_lambda_alphas(num_steps)
        return self.alpha(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64))

    def pmf(self, num_steps: int) -> Float[Tensor, "num_steps"]:
        """P(tau = t) = alpha_{t-1} - alpha_t for t = 1..T: the law of the transition time, as in the paper."""
        alphas = self.alphas(num_steps)
        return alphas[:-1] - alphas[1:]

    def quantile(self, v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The u with P(tau/T <= u) = v in the continuous limit, by its closed form or by bisection."""
        v64 = v.detach().to("cpu", torch.float64)
        if self._quantile is not None:
            return self._quantile(v64).to(v.device)
        low, high = torch.zeros_like(v64), torch.ones_like(v64)
        for _ in range(60):
            middle = (low + high) / 2
            below = 1 - self._alpha(middle) < v64
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(v.device)

    def __repr__(self) -> str:
        return f"TransitionSchedule({self.name})"


def check_alphas(alphas: Float[Tensor, "steps_plus_1"]) -> None:
    """Refuse a table that is not a schedule.

    Raises:
        InputError: if it does not start at 1, end at 0, or rises somewhere.
    """
    if alphas.ndim != 1 or len(alphas) < 2:
        raise InputError(f"alphas must be a list of at least two numbers, got shape {tuple(alphas.shape)}")
    if not bool(torch.isfinite(alphas).all()):
        raise InputError("alphas must be finite numbers")
    if abs(float(alphas[0]) - 1) > 1e-6:
        raise InputError(f"alphas must fall from 1 to 0, got alphas[0] = {float(alphas[0]):g}: time 0 is the data")
    if abs(float(alphas[-1])) > 1e-6:
        raise InputError(
            f"alphas must fall from 1 to 0, got alphas[-1] = {float(alphas[-1]):g}: "
            "the schedule has not reached pure noise"
        )
    rises = (alphas.diff() > 1e-9).nonzero()
    if len(rises):
        raise InputError(f"alphas must not increase, but they do after entry {int(rises[0])}")


def _interpolation(table: Float[Tensor, "steps_plus_1"]) -> AlphaFunction:
    check_alphas(table)

    def alpha(u: Tensor) -> Tensor:
        place = u * (len(table) - 1)
        left = place.floor().long().clamp(max=len(table) - 2)
        return torch.lerp(table[left], table[left + 1], place - left)

    return alpha


def _no_continuous_alpha(u: Tensor) -> Tensor:
    raise InputError("schedule official_linear_lambda is defined for a finite number of steps only; give num_steps")


def _linear_lambda_alphas(num_steps: int) -> Float[Tensor, "num_steps_plus_1"]:
    """Hazard i/T at the i-th reverse step (i = 0..T-1); what is left at time 0 moves at t = 1."""
    hazard = torch.arange(num_steps, dtype=torch.float64) / num_steps  # hazard[i] belongs to t = T - i
    remaining = torch.cumprod(1 - hazard, 0)  # probability not yet restored after reverse step i
    alphas = torch.cat([1 - remaining.flip(0), torch.zeros(1, dtype=torch.float64)])
    alphas[0] = 1.0
    return alphas
