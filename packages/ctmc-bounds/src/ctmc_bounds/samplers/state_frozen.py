"""State-frozen baselines: one call a step, then all tokens move independently. Not the paper's scheme.

With rates r_c = s[i, c] / S and lambda = sum_c r_c of a token, a step of length h moves it to c with probability

    Euler          h r_c                         (stays with 1 - h lambda, which may be negative)
    reject         h r_c e^{-h lambda}           (tau-leaping; several jumps in a token cancel all of them)
    ordinal        x + sum (c - x) Poisson(h r_c), clamped to 0..S-1 (tau-leaping of Campbell et al.)
    first_jump     (1 - e^{-h lambda}) r_c / lambda
    Tweedie        s~_c K_h(c, x),  s~ = e^h s - (e^h - 1)/S sum s    (exact for product data at any h)
"""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import check_enumerable
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import log_scores
from ctmc_bounds.exchangeable import count_kernel
from ctmc_bounds.exponential import poisson_weights
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.laws import Init, Law
from ctmc_bounds.parametrisation import score_to_posterior, set_own
from ctmc_bounds.samplers.base import Evaluated, Sampler, Samples, Score, first_tokens
from ctmc_bounds.spaces import CountSpace, EnumeratedSpace, Space, TokenSpace

log = logging.getLogger(__name__)
KERNEL_STATES = 2**16
Kernel = Float[Tensor, "batch d S"]
ZERO_SLACK = 1e-12


def first_jump_kernel(rates: Kernel, x: Int[Tensor, "batch d"], h: float) -> Kernel:
    """(1 - e^{-h lambda}) r_c / lambda, stay e^{-h lambda}."""
    total = rates.sum(-1, keepdim=True)
    share = torch.where(total > 0, -torch.expm1(-h * total) / total.clamp(min=1e-300), h)
    return set_own_to(share * rates, x, torch.exp(-h * total))


def reject_kernel(rates: Kernel, x: Int[Tensor, "batch d"], h: float) -> Kernel:
    """h r_c e^{-h lambda}, stay otherwise."""
    moved = h * rates * torch.exp(-h * rates.sum(-1, keepdim=True))
    return set_own_to(moved, x, 1 - moved.sum(-1, keepdim=True))


def euler_kernel(rates: Kernel, x: Int[Tensor, "batch d"], h: float) -> Kernel:
    """h r_c, stay 1 - h lambda.

    Raises:
        InputError: if h lambda > 1 somewhere.
    """
    largest = h * float(rates.sum(-1).max())
    if largest > 1 + ZERO_SLACK:
        raise InputError(
            f"Euler step h = {h:.4g} with h lambda = {largest:.4g} > 1: a probability would be negative; take more"
            " steps, or strict=False (--clip) to clip and count"
        )
    return set_own_to(h * rates, x, (1 - h * rates.sum(-1, keepdim=True)).clamp(min=0))


def set_own_to(kernel: Kernel, x: Int[Tensor, "batch d"], stay: Float[Tensor, "batch d 1"]) -> Kernel:
    """The kernel with its stay probability filled in."""
    return kernel.scatter(-1, x.unsqueeze(-1), stay)


@dataclass(frozen=True)
class StateFrozen(Sampler):
    """One call per step; a subclass gives the transition law of one token."""

    @abstractmethod
    def kernel(self, score: Kernel, x: Int[Tensor, "batch d"], t: float, h: float, notes: dict[str, Any]) -> Kernel:
        """Transition probabilities of every token over [t - h, t], (batch, d, S)."""

    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """See `Sampler.sample`."""
        x = first_tokens(n, score, self.schedule.T, generator, init)
        notes: dict[str, Any] = {}
        evaluated = Evaluated(score, n)
        for t, h in self.schedule.intervals:
            x = self.step(evaluated(x, t), x, (t, h), notes, generator)
        return Samples(x, self.schedule.N, None, evaluated.states, notes)

    def step(
        self, score: Kernel, x: Tensor, interval: tuple[float, float], notes: dict[str, Any],
        generator: torch.Generator | None,
    ) -> Tensor:  # fmt: skip
        """Tokens after the interval (t, h)."""
        return draw(self.kernel(score, x, *interval, notes), generator)

    def law(
        self,
        data: DataLaw,
        estimator: Score | None = None,
        init: Init | Tensor = "uniform",
        representation: str = "auto",
    ) -> Law:
        """Frozen product kernels; see `Sampler.law`."""
        marginals, p = self._start(data, estimator, init, representation)
        space = marginals.space
        if isinstance(space, EnumeratedSpace):
            check_enumerable(data.S, data.d, KERNEL_STATES, "a state-frozen law")
        notes: dict[str, Any] = {}
        for t, h in self.schedule.intervals:
            scores, x = token_scores(space, torch.exp(log_scores(marginals, t, estimator)))
            p = apply_kernel(space, self.kernel(scores, x, t, h, notes), p)
        return self._finish(marginals, p, self.schedule.N, notes)

    def expected_calls(self, ctmc: UniformCTMC) -> float:
        """N."""
        return self.schedule.N


def token_scores(space: Space, by_move: Tensor) -> tuple[Kernel, Int[Tensor, "batch d"]]:
    """Scores by moves as (batch, tokens, S) with the tokens they start from; one token a row unless enumerated."""
    if isinstance(space, EnumeratedSpace):
        return by_move.view(space.n, space.d, space.S), space.representatives()
    own = torch.arange(space.S, device=space.device).repeat(len(by_move)).unsqueeze(-1)
    return by_move.reshape(-1, 1, space.S), own


def apply_kernel(space: Space, kernel: Kernel, p: Tensor) -> Tensor:
    """p after every token moved independently by `kernel` (as laid out by `token_scores`)."""
    if isinstance(space, TokenSpace):
        return torch.einsum("da,dac->dc", p, kernel.view(space.d, space.S, space.S))
    if isinstance(space, CountSpace):
        return p @ count_kernel(space, kernel.view(space.n, space.S, space.S))
    return scatter_products(kernel, p)


def scatter_products(kernel: Float[Tensor, "n d S"], p: Float[Tensor, " n"]) -> Float[Tensor, " S_to_the_d"]:
    """sum_x p(x) prod_i kernel[x, i, y_i] for every y: two halves of the tokens, joined by one matrix product."""
    d = kernel.shape[1]
    result: Tensor | None = None
    for rows, weights in zip(kernel.split(2**12), p.split(2**12), strict=True):
        left, right = weights.unsqueeze(1), torch.ones_like(weights).unsqueeze(1)
        for i in range(d // 2):
            left = (left.unsqueeze(2) * rows[:, i].unsqueeze(1)).flatten(1)
        for i in range(d // 2, d):
            right = (right.unsqueeze(2) * rows[:, i].unsqueeze(1)).flatten(1)
        part = left.T @ right
        result = part if result is None else result.add_(part)
    assert result is not None
    return result.reshape(-1)


def draw(kernel: Kernel, generator: torch.Generator | None) -> Int[Tensor, "batch d"]:
    """One token from each row, in float64."""
    ends = kernel.cumsum(-1)
    u = torch.rand(*ends.shape[:-1], 1, dtype=torch.float64, generator=generator, device=ends.device)
    return (ends <= u * ends[..., -1:]).sum(-1).clamp(max=kernel.shape[-1] - 1)


def to_rates(score: Kernel, x: Int[Tensor, "batch d"]) -> Kernel:
    """s / S with 0 at the token itself."""
    return set_own(score, x, 0.0) / score.shape[-1]


@dataclass(frozen=True)
class Euler(StateFrozen):
    """Euler steps.

    Args:
        schedule: noise levels.
        strict: refuse a step with h lambda > 1. Otherwise such rows stay with 0 and move by r_c / lambda, and `notes`
            counts them; a warning is logged.

    Raises:
        InputError: for a negative probability, if strict.
    """

    strict: bool = True
    name: ClassVar[str] = "euler"
    origin: ClassVar[str] = "folklore; SEDD's Euler sampler"

    def kernel(self, score: Kernel, x: Tensor, t: float, h: float, notes: dict[str, Any]) -> Kernel:
        """See the module."""
        rates = to_rates(score, x)
        if not self.strict:
            total = h * rates.sum(-1, keepdim=True)
            over = int((total > 1).sum())
            if over:
                notes["clipped_rows"] = notes.get("clipped_rows", 0) + over
                log.warning("Euler step at t = %.4g: %d rows with h lambda > 1 clipped", t, over)
                rates = rates / total.clamp(min=1)
        return euler_kernel(rates, x, h)


@dataclass(frozen=True)
class TauLeapingReject(StateFrozen):
    """Tau-leaping that keeps a token where it would have jumped more than once."""

    name: ClassVar[str] = "reject"
    origin: ClassVar[str] = "tau-leaping with rejection of multiple jumps"

    def kernel(self, score: Kernel, x: Tensor, t: float, h: float, notes: dict[str, Any]) -> Kernel:
        """See the module."""
        return reject_kernel(to_rates(score, x), x, h)


@dataclass(frozen=True)
class TauLeapingOrdinal(StateFrozen):
    """Tau-leaping that adds jumps as numbers and clamps; only sensible where tokens are ordered."""

    name: ClassVar[str] = "ordinal"
    origin: ClassVar[str] = "tau-leaping of Campbell et al., arXiv 2205.14987"

    def step(
        self, score: Kernel, x: Tensor, interval: tuple[float, float], notes: dict[str, Any],
        generator: torch.Generator | None,
    ) -> Tensor:  # fmt: skip
        """Poisson numbers of every jump, summed and clamped."""
        S = score.shape[-1]
        counts = torch.poisson(interval[1] * to_rates(score, x), generator=generator)
        jump = torch.arange(S, device=x.device) - x.unsqueeze(-1)
        return (x + (counts.long() * jump).sum(-1)).clamp(0, S - 1)

    def kernel(self, score: Kernel, x: Tensor, t: float, h: float, notes: dict[str, Any]) -> Kernel:
        """The law of the clamped sum, by convolving Poisson laws."""
        rates = h * to_rates(score, x)
        S = rates.shape[-1]
        most = len(poisson_weights(float(rates.max())))
        orders = torch.arange(most, dtype=torch.float64, device=rates.device)
        reach = most * (S - 1)
        law = torch.zeros(*x.shape, 2 * reach + S, dtype=torch.float64, device=rates.device)
        law.scatter_(-1, (x + reach).unsqueeze(-1), 1.0)
        for c in range(S):
            rate = rates[..., c : c + 1]
            weights = torch.exp(torch.xlogy(orders, rate) - rate - torch.lgamma(orders + 1))
            step = c - x
            mixed = torch.zeros_like(law)
            for k in range(most):
                mixed += weights[..., k : k + 1] * _shifted(law, k * step)
            law = mixed
        low, high = law[..., : reach + 1].sum(-1, keepdim=True), law[..., reach + S - 1 :].sum(-1, keepdim=True)
        return torch.cat([low, law[..., reach + 1 : reach + S - 1], high], -1)


def _shifted(law: Tensor, by: Tensor) -> Tensor:
    """Every row moved by its own number of places; what leaves an end gathers there (it would be clamped anyway)."""
    size = law.shape[-1]
    place = (torch.arange(size, device=law.device) + by.unsqueeze(-1)).clamp(0, size - 1)
    return torch.zeros_like(law).scatter_add_(-1, place, law)


@dataclass(frozen=True)
class FirstJump(StateFrozen):
    """Every token takes its first jump of the step only (the form that flow_matching's solver uses)."""

    name: ClassVar[str] = "first_jump"
    origin: ClassVar[str] = "discrete flow matching, arXiv 2407.15595"

    def kernel(self, score: Kernel, x: Tensor, t: float, h: float, notes: dict[str, Any]) -> Kernel:
        """See the module."""
        return first_jump_kernel(to_rates(score, x), x, h)


@dataclass(frozen=True)
class Tweedie(StateFrozen):
    """SEDD's analytic sampler: every token from its exact posterior P(x_{t-h, i} | x_t).

    With an estimated score the formula can be negative; such rows raise if strict, or are clipped, counted and divided
    by their sum.

    Args:
        schedule: noise levels.
        strict: refuse negative probabilities.
    """

    strict: bool = True
    name: ClassVar[str] = "tweedie"
    origin: ClassVar[str] = "SEDD's analytic sampler, arXiv 2310.16834"

    def kernel(self, score: Kernel, x: Tensor, t: float, h: float, notes: dict[str, Any]) -> Kernel:
        """w(a) of `score_to_posterior` over a step h: s~_c K_h(c, x).

        Raises:
            InputError: with `strict`, for an estimate that gives a negative probability.
        """
        result = score_to_posterior(score, x, h)
        worst = float(result.min())
        if worst < -ZERO_SLACK:
            if self.strict:
                raise InputError(
                    f"Tweedie step at t = {t:.4g}: the estimate gives a probability {worst:.3g} < 0; use a cavity"
                    " parametrisation, or strict=False (--clip) to clip and count"
                )
            rows = int((result < -ZERO_SLACK).any(-1).sum())
            notes["clipped_rows"] = notes.get("clipped_rows", 0) + rows
            log.warning("Tweedie step at t = %.4g: %d rows with negative probabilities clipped", t, rows)
        result = result.clamp(min=0)
        return result / result.sum(-1, keepdim=True)
