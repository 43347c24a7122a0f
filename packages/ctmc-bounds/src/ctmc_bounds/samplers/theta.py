"""Two-call schemes of high-order solvers for discrete diffusion (theta methods, arXiv 2502.00234), state-frozen inside.

With a leap of theta h from (x, t) to y:
    trapezoidal   then from y over (1 - theta) h with rates (alpha1 r_{t - theta h}(y) - alpha2 r_t(x))_+,
                  alpha1 = 1/(2 theta (1-theta)), alpha2 = ((1-theta)^2 + theta^2) / (2 theta (1-theta))
    RK-2          from x over h with rates ((1 - 1/(2 theta)) r_t(x) + r_{t - theta h}(y) / (2 theta))_+
Rates are indexed by the token they lead to; the jump back to a token already left is lost in RK-2. Inside, the tokens
move by the first-jump kernel by default: the inner kernel decides the order (with Euler or reject it drops to about 2).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import TRIPLE_CAP, check_enumerable
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import log_scores
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.laws import Init, Law
from ctmc_bounds.samplers.base import Evaluated, Sampler, Samples, Score, first_tokens
from ctmc_bounds.samplers.state_frozen import (
    Kernel,
    draw,
    euler_kernel,
    first_jump_kernel,
    reject_kernel,
    scatter_products,
    to_rates,
)
from ctmc_bounds.spaces import EnumeratedSpace

INNER: dict[str, Callable[..., Kernel]] = {
    "first_jump": first_jump_kernel,
    "euler": euler_kernel,
    "reject": reject_kernel,
}


@dataclass(frozen=True)
class ThetaScheme(Sampler):
    """Two calls per step.

    Args:
        schedule: noise levels.
        theta: where the second call is made, in (0, 1).
        inner: kernel of the tokens: first_jump, euler or reject.

    Raises:
        InputError: for theta outside (0, 1), or an unknown kernel.
    """

    theta: float = 0.5
    inner: Literal["first_jump", "euler", "reject"] = "first_jump"

    def __post_init__(self) -> None:
        if not 0 < self.theta < 1:
            raise InputError(f"theta = {self.theta}: the second call is inside the step, give 0 < theta < 1")
        if self.inner not in INNER:
            raise InputError(f"inner kernel {self.inner!r} is none of {', '.join(INNER)}")

    @abstractmethod
    def second(self, x: Tensor, y: Tensor, first: Kernel, later: Kernel, h: float) -> tuple[Tensor, Kernel, float]:
        """Tokens, rates and length of the second leap, from scores at (x, t) and (y, t - theta h)."""

    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """See `Sampler.sample`."""
        x = first_tokens(n, score, self.schedule.T, generator, init)
        leap, evaluated = INNER[self.inner], Evaluated(score, n)
        for t, h in self.schedule.intervals:
            first = evaluated(x, t)
            y = draw(leap(to_rates(first, x), x, self.theta * h), generator)
            start, rates, length = self.second(x, y, first, evaluated(y, t - self.theta * h), h)
            x = draw(leap(rates, start, length), generator)
        return Samples(x, 2 * self.schedule.N, None, evaluated.states)

    def law(
        self,
        data: DataLaw,
        estimator: Score | None = None,
        init: Init | Tensor = "uniform",
        representation: str = "auto",
    ) -> Law:
        """By summing over both leaps, n^2 pairs of states; enumerated only; see `Sampler.law`."""
        if representation not in ("auto", "enumerated"):
            raise InputError(f"representation {representation}: the law of a two-call scheme is enumerated only")
        check_enumerable(data.S, data.d, round(TRIPLE_CAP ** (1 / 3)), f"the law of {self.name} (pairs of states)")
        marginals, p = self._start(data, estimator, init, "enumerated")
        for t, h in self.schedule.intervals:
            first, later = (
                torch.exp(log_scores(marginals, time, estimator)).view(-1, data.d, data.S)
                for time in (t, t - self.theta * h)
            )
            p = self._step(marginals.space, p, first, later, h)
        return self._finish(marginals, p, 2 * self.schedule.N)

    def _step(self, space: Any, p: Tensor, first: Kernel, later: Kernel, h: float) -> Tensor:
        assert isinstance(space, EnumeratedSpace)
        tokens, leap = space.representatives(), INNER[self.inner]
        kernel = leap(to_rates(first, tokens), tokens, self.theta * h)
        total = torch.zeros_like(p)
        rows = max(1, 2**18 // space.n)
        for xs in torch.arange(space.n, device=p.device).split(rows):
            # probability of the pair (x, y) after the first leap
            pair = p[xs].unsqueeze(1)
            for i in range(space.d):
                pair = (pair.unsqueeze(2) * kernel[xs, i].unsqueeze(1)).flatten(1)
            x, y = (
                grid.reshape(-1) for grid in torch.meshgrid(xs, torch.arange(space.n, device=p.device), indexing="ij")
            )
            start, rates, length = self.second(tokens[x], tokens[y], first[x], later[y], h)
            total += scatter_products(leap(rates, start, length), pair.reshape(-1))
        return total

    def expected_calls(self, ctmc: UniformCTMC) -> float:
        """2 N."""
        return 2 * self.schedule.N


@dataclass(frozen=True)
class ThetaTrapezoidal(ThetaScheme):
    """See the module."""

    name: ClassVar[str] = "theta_trapezoidal"
    origin: ClassVar[str] = "Ren et al., arXiv 2502.00234"

    def second(self, x: Tensor, y: Tensor, first: Kernel, later: Kernel, h: float) -> tuple[Tensor, Kernel, float]:
        """From y over (1 - theta) h."""
        product = 2 * self.theta * (1 - self.theta)
        alpha2 = ((1 - self.theta) ** 2 + self.theta**2) / product
        rates = (to_rates(later, y) / product - alpha2 * to_rates(first, x)).clamp(min=0)
        return y, rates.scatter(-1, y.unsqueeze(-1), 0.0), (1 - self.theta) * h


@dataclass(frozen=True)
class ThetaRK2(ThetaScheme):
    """See the module."""

    name: ClassVar[str] = "theta_rk2"
    origin: ClassVar[str] = "Ren et al., arXiv 2502.00234"

    def second(self, x: Tensor, y: Tensor, first: Kernel, later: Kernel, h: float) -> tuple[Tensor, Kernel, float]:
        """From x over h."""
        half = 1 / (2 * self.theta)
        rates = ((1 - half) * to_rates(first, x) + half * to_rates(later, y)).clamp(min=0)
        return x, rates.scatter(-1, x.unsqueeze(-1), 0.0), h
