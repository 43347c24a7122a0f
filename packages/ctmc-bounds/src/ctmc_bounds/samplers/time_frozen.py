"""The paper's sampler: the score's time is frozen on each interval, the state is not.

On an interval the estimated reverse process is a homogeneous CTMC with rates s_hat_{t_k}(x)[i, c] / S; it is simulated
exactly, by uniformization (as in the paper's Algorithm 1) or by exponential clocks (the same law, fewer calls).
"""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import EnvelopeError
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import is_exact, log_scores
from ctmc_bounds.exponential import frozen_flow, uniformization
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.laws import Init, Law
from ctmc_bounds.parametrisation import set_own
from ctmc_bounds.samplers.base import Sampler, Samples, Score, first_tokens, table_is_worth_it
from ctmc_bounds.spaces import EnumeratedSpace

log = logging.getLogger(__name__)
COMPILED_FROM = 20_000  # samples from which compiled clocks pay for loading numba
Envelope = Literal["analytic", "max", "adaptive"]


class Rates:
    """Rates out of states at a frozen time, from the estimator or from a table of all states."""

    def __init__(self, score: Score, n: int, table: bool | None = None) -> None:
        self.score, self.evaluations = score, 0
        tabled = table_is_worth_it(score, n) if table is None else table
        device = score.device if isinstance(score, DataLaw) else torch.device("cpu")
        self.space = EnumeratedSpace(score.S, score.d, device) if tabled else None

    def freeze(self, t: float) -> None:
        """Fix the time; with a table, evaluate every state once."""
        self.t = t
        if self.space is not None:
            x = self.space.representatives()
            rates = self._evaluate(x)
            self.total, self.ends = rates.sum(1), rates.cumsum(1)

    def _evaluate(self, x: Tensor) -> Tensor:
        self.evaluations += len(x)
        return set_own(self.score(x, self.t), x, 0.0).flatten(1) / self.score.S

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exit rates (batch,) and cumulative rates (batch, d S) of tokens."""
        if self.space is not None:
            number = self.space.number(x)
            return self.total[number], self.ends[number]
        rates = self._evaluate(x)
        return rates.sum(1), rates.cumsum(1)


@dataclass(frozen=True)
class TimeFrozen(Sampler):
    """The paper's scheme by exponential clocks (Gillespie): one call per interval and one per jump.

    Rates do not change within an interval, so the clock is exact; what is left of it is carried over to the next
    interval, whose rates then consume it. Expected calls N + d (1-1/S) (T - delta).

    Args:
        schedule: noise levels.
        table: evaluate all states once an interval instead of asking for each sample; None decides by size.
    """

    table: bool | None = None
    name: ClassVar[str] = "paper"
    origin: ClassVar[str] = "the paper's scheme; simulated by Gillespie clocks (same law)"

    def frozen_time(self, t: float, h: float) -> float:
        """The time at which the score is taken on [t - h, t]."""
        return t

    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """See `Sampler.sample`."""
        x = first_tokens(n, score, self.schedule.T, generator, init)
        rates = Rates(score, n, self.table)
        clock = torch.empty(n, dtype=torch.float64, device=x.device).exponential_(generator=generator)
        if rates.space is not None and x.device.type == "cpu" and n >= COMPILED_FROM:
            x, jumps = self._compiled(x, rates, rates.space, clock, generator)
        else:
            jumps = 0
            for t, h in self.schedule.intervals:
                rates.freeze(self.frozen_time(t, h))
                jumps += _run_clocks(x, rates, clock, h, generator)
        return Samples(x, self.schedule.N + jumps / n, jumps / n, rates.evaluations)

    def _compiled(
        self, x: Tensor, rates: Rates, space: EnumeratedSpace, clock: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        """The clocks on state numbers with a table, sample by sample in compiled code."""
        from ctmc_bounds.compiled import run_clocks

        state, jumps = space.number(x), 0
        for t, h in self.schedule.intervals:
            rates.freeze(self.frozen_time(t, h))
            seed = int(torch.randint(2**31, (), generator=generator))
            jumps += run_clocks(seed, state.numpy(), clock.numpy(), rates.ends.numpy(), space.dst.numpy(), h)
        return space.representatives()[state], jumps

    def law(
        self,
        data: DataLaw,
        estimator: Score | None = None,
        init: Init | Tensor = "uniform",
        representation: str = "auto",
    ) -> Law:
        """p <- p exp(h_k G_k) interval by interval; see `Sampler.law`."""
        marginals, p = self._start(data, estimator, init, representation)
        space, products = marginals.space, 0
        for t, h in self.schedule.intervals:
            time = self.frozen_time(t, h)
            if isinstance(space, EnumeratedSpace) and is_exact(estimator, data):
                p, count = frozen_flow(space.blocks, marginals.probabilities(time), p, h)
            else:
                p, count = _general_flow(space, log_scores(marginals, time, estimator), p, h)
            products += count
        return self._finish(marginals, p, products)

    def expected_calls(self, ctmc: UniformCTMC) -> float:
        """N + d (1-1/S) (T - delta)."""
        return self.schedule.N + ctmc.expected_jumps(self.schedule.T, self.schedule.delta)


def _general_flow(space: Any, log_s: Tensor, p: Tensor, h: float) -> tuple[Tensor, int]:
    rates = torch.exp(log_s) / space.S
    into = space.inflow(rates)
    exits = (rates * space.multiplicity).sum(-1)
    return uniformization(lambda v: (v[..., space.dst] * into).sum(-1), exits, p, h)


def _run_clocks(x: Tensor, rates: Rates, clock: Tensor, h: float, generator: torch.Generator | None) -> int:
    """Advance every sample by h in place; `clock` holds the unspent part of its unit exponential. Returns the jumps."""
    active, jumps = torch.arange(len(x), device=x.device), 0
    left = torch.full((len(x),), h, dtype=torch.float64, device=x.device)
    S = rates.score.S
    while len(active):
        total, ends = rates.at(x[active])
        spend = clock[active] - total * left
        stays = spend >= 0
        clock[active] = spend
        rows = (~stays).nonzero().squeeze(1)
        if not len(rows):
            break
        total, ends, active, left = total[rows], ends[rows], active[rows], left[rows]
        # the clock ran out at (unspent before) / rate, which is left + spend / rate
        left = -spend[rows] / total
        u = torch.rand(len(rows), 1, dtype=torch.float64, generator=generator, device=x.device)
        move = (ends <= u * ends[:, -1:]).sum(1).clamp(max=ends.shape[1] - 1)
        x[active, move // S] = move % S
        clock[active] = torch.empty_like(left).exponential_(generator=generator)
        jumps += len(rows)
    return jumps


@dataclass(frozen=True)
class Midpoint(TimeFrozen):
    """The same with the score taken in the middle of the interval: KL of order h^4 instead of h^2. Not in the paper."""

    name: ClassVar[str] = "midpoint"
    origin: ClassVar[str] = "ours, not in the paper"

    def frozen_time(self, t: float, h: float) -> float:
        """t - h/2."""
        return t - h / 2


@dataclass(frozen=True)
class Uniformization(TimeFrozen):
    """The paper's Algorithm 1: Poisson(lambda_k h_k) candidate jumps an interval, thinned by the state's rates.

    Args:
        envelope: lambda_k. `analytic`: d [(S-1)/S + 1/(e^t - 1)], for exact, clipped and cavity scores. `max`: the
            largest estimated exit rate over all states. `adaptive`: doubled, and the interval done again, whenever it
            is exceeded (the redos are counted in `notes` and logged).

    Raises:
        EnvelopeError: if an estimated exit rate exceeds lambda_k (never cut off).
    """

    envelope: Envelope = "analytic"
    name: ClassVar[str] = "uniformization"
    origin: ClassVar[str] = "the paper's Algorithm 1"

    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """See `Sampler.sample`; `notes` counts the candidates and the intervals that were done again."""
        if self.envelope not in ("analytic", "max", "adaptive"):
            raise InputError(f"envelope {self.envelope!r} must be analytic, max or adaptive")
        x = first_tokens(n, score, self.schedule.T, generator, init)
        rates = Rates(score, n, True if self.envelope == "max" else self.table)
        ctmc = UniformCTMC(score.S, score.d)
        notes = {"candidates": 0.0, "redone_intervals": 0}
        jumps = 0
        for t, h in self.schedule.intervals:
            rates.freeze(t)
            largest = ctmc.exit_rate_bound(t)
            if self.envelope == "max":
                largest = float(rates.total.max())
            elif self.envelope == "adaptive":
                largest = 1.01 * float(rates.at(x)[0].max())
            while True:
                try:
                    after, candidates, moved = _uniformized(x.clone(), rates, largest, h, generator)
                    break
                except EnvelopeError:
                    if self.envelope != "adaptive":
                        raise
                    largest *= 2
                    notes["redone_intervals"] += 1
                    log.info("interval at t = %.4g done again with envelope %.4g", t, largest)
            x, jumps = after, jumps + moved
            notes["candidates"] += candidates / n
        return Samples(x, self.schedule.N + jumps / n, jumps / n, rates.evaluations, notes)


def _uniformized(
    x: Tensor, rates: Rates, largest: float, h: float, generator: torch.Generator | None
) -> tuple[Tensor, int, int]:
    mean = torch.full((len(x),), largest * h, dtype=torch.float64, device=x.device)
    events = torch.poisson(mean, generator=generator).long()
    candidates, jumps, S = int(events.sum()), 0, rates.score.S
    total, ends = rates.at(x)
    total, ends = total.clone(), ends.clone()
    while True:
        if float(total.max()) > largest * (1 + 1e-9):
            raise EnvelopeError(
                f"envelope lambda = {largest:.6g} at t = {rates.t:.4g} is below the exit rate {float(total.max()):.6g}"
                " of a visited state; clip the score (ctmc_bounds.Clipped), or use envelope=max or adaptive"
            )
        active = (events > 0).nonzero().squeeze(1)
        if not len(active):
            return x, candidates, jumps
        events[active] -= 1
        u = torch.rand(len(active), 1, dtype=torch.float64, generator=generator, device=x.device) * largest
        moves = u.squeeze(1) < ends[active, -1]
        active, u = active[moves], u[moves]
        move = (ends[active] <= u).sum(1).clamp(max=ends.shape[1] - 1)
        x[active, move // S] = move % S
        jumps += len(active)
        if len(active):
            total[active], ends[active] = rates.at(x[active])
