"""The forward CTMC with uniform noise on [S]^d, in closed form."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ctmc_bounds.arrays import like_input, real
from ctmc_bounds.checks import check_space

#: What bounds a score by construction. `law`: it consists of ratios of one law on each token (true scores, cavity and
#: posterior estimates). `clipped`: every value lies in [b_t/a_t, a_t/b_t], but all of them may be large at once.
ScoreKind = Literal["law", "clipped"]


def move(t: Any, S: int) -> Any:
    """b_t = (1 - e^{-t}) / S, the probability that a token is at one given other value at time t."""
    if isinstance(t, Tensor):
        return -torch.expm1(-t) / S
    return -math.expm1(-t) / S


def decay(t: Any) -> Any:
    """e^{-t}, the probability that a token was never resampled."""
    return torch.exp(-t) if isinstance(t, Tensor) else math.exp(-t)


@dataclass(frozen=True)
class UniformCTMC:
    """Every token is resampled uniformly at rate 1: Q_tok = 11^T / S - I, Q the Kronecker sum over d tokens.

    Time t is the noise level. A noise schedule beta only changes the clock: t = integral of beta
    (`Schedule.from_noise`).

    Raises:
        InputError: if S < 2 or d < 1.
    """

    S: int
    d: int

    def __post_init__(self) -> None:
        check_space(self.S, self.d)

    @property
    def jump_rate(self) -> float:
        """d (S-1)/S: the exit rate of every state, and the mean exit rate of the reverse process at every time."""
        return self.d * (self.S - 1) / self.S

    def stay(self, t: float) -> float:
        """a_t = (1 + (S-1) e^{-t}) / S."""
        return math.exp(-t) + move(t, self.S)

    def kernel(self, t: float) -> Float[Tensor, "S S"]:
        """K_t = e^{-t} I + (1 - e^{-t})/S 11^T, of one token."""
        return torch.eye(self.S, dtype=torch.float64) * math.exp(-t) + move(t, self.S)

    def marginal(self, p: Any, t: float) -> Any:
        """q_t = K_t^{(x)d} p for p of shape (S,)*d (or flat): per axis q <- e^{-t} q + (1-e^{-t}) mean."""
        return _per_axis(p, self.S, self.d, math.exp(-t), -math.expm1(-t))

    def generator_matvec(self, v: Any) -> Any:
        """Q v (Q is symmetric): the sum over axes of mean_axis(v) - v."""
        return _generator(v, self.S, self.d)

    def score_bounds(self, t: float) -> tuple[float, float]:
        """b_t/a_t <= s_t <= a_t/b_t = 1 + S/(e^t - 1), for any data; a point mass attains both."""
        ratio = 1 + self.S / math.expm1(t) if t > 0 else math.inf
        return 1 / ratio, ratio

    def envelope_share(self, kind: ScoreKind = "law") -> int:
        """Factor of 1/(e^t - 1) in the exit-rate bound of a token: 1 for `law`, S-1 for `clipped` scores."""
        return 1 if kind == "law" else self.S - 1

    def exit_rate_bound(self, t: float, kind: ScoreKind = "law") -> float:
        """Largest exit rate R_t(x) that a score of that kind can have, whatever the data; attained.

        law      d [(S-1)/S + 1/(e^t - 1)]: with m = e^{-t} mu(x_i) + b_t >= b_t a token's rate is (1 - m)/(S m)
        clipped  d (S-1) [1/S + 1/(e^t - 1)]: S-1 values of a_t/b_t each; the same for S = 2
        """
        return self.jump_rate + (self.envelope_share(kind) * self.d / math.expm1(t) if t > 0 else math.inf)

    def envelope_integral(self, tau: float, T: float, kind: ScoreKind = "law") -> float:
        """Integral of `exit_rate_bound` over [tau, T], the expected candidates of exact thinning.

        d [(S-1)/S (T-tau) + log((1-e^{-T})/(1-e^{-tau}))] for `law`; the logarithm S-1 times for `clipped`.
        """
        logs = math.log(-math.expm1(-T)) - math.log(-math.expm1(-tau)) if tau > 0 else math.inf
        return self.jump_rate * (T - tau) + self.envelope_share(kind) * self.d * logs

    def expected_jumps(self, T: float, delta: float) -> float:
        """d (1 - 1/S) (T - delta): real jumps of the exact reverse process."""
        return self.jump_rate * (T - delta)

    def mixing_bound(self, T: float) -> float:
        """KL(q_T || uniform) <= d e^{-T} log S (modified log-Sobolev constant 1)."""
        return self.d * math.exp(-T) * math.log(self.S)


@like_input
def _per_axis(p: Tensor, S: int, d: int, keep: float, spread: float) -> Tensor:
    q = real(p)
    for axis in range(d):
        view = q.reshape(S**axis, S, -1)
        q = keep * view + spread * view.mean(1, keepdim=True)
    return q.reshape(p.shape)


@like_input
def _generator(v: Tensor, S: int, d: int) -> Tensor:
    flat = real(v)
    result = torch.zeros_like(flat).reshape(-1)
    for axis in range(d):
        view = flat.reshape(S**axis, S, -1)
        result += (view.mean(1, keepdim=True) - view).reshape(-1)
    return result.reshape(v.shape)
