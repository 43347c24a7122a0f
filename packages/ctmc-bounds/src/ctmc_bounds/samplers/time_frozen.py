"""The paper's sampler: the score's time is frozen on each interval, the state is not.

On an interval the estimated reverse process is a homogeneous CTMC with rates s_hat_{t_k}(x)[i, c] / S; it is simulated
exactly, by uniformization (as in the paper's Algorithm 1) or by exponential clocks (the same law, fewer calls).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import EnvelopeError, check_jumps
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import is_exact, log_scores
from ctmc_bounds.exponential import frozen_flow, uniformization
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.laws import Init, Law
from ctmc_bounds.parametrisation import set_own
from ctmc_bounds.samplers.base import Sampler, Samples, Score, first_tokens, table_is_worth_it
from ctmc_bounds.spaces import EnumeratedSpace

COMPILED_FROM = 20_000  # samples from which compiled clocks pay for loading numba
Envelope = Literal["analytic", "max", "adaptive"]


class Rates:
    """Rates out of states at a frozen time, from the estimator or from a table of all states."""

    def __init__(self, score: Score, n: int, table: bool | None = None) -> None:
        self.score, self.evaluations = score, 0
        tabled = table_is_worth_it(score, n) if table is None else table
        device = score.device if isinstance(score, DataLaw) else torch.device("cpu")
        self.space = EnumeratedSpace(score.S, score.d, device) if tabled else None

    def freeze(self, t: float, h: float) -> None:
        """Fix the time and the length of the interval; with a table, evaluate every state once."""
        self.t, self.h = t, h
        if self.space is not None:
            x = self.space.representatives()
            rates = self._evaluate(x)
            self.total, self.ends = rates.sum(1), rates.cumsum(1)

    def _evaluate(self, x: Tensor) -> Tensor:
        self.evaluations += len(x)
        rates = set_own(self.score(x, self.t), x, 0.0).flatten(1) / self.score.S
        check_jumps(float(rates.sum(1).max()), self.t, self.h, self.score.d)
        return rates

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
                rates.freeze(self.frozen_time(t, h), h)
                jumps += _run_clocks(x, rates, clock, h, generator)
        return Samples(x, self.schedule.N + jumps / n, jumps / n, rates.evaluations)

    def _compiled(
        self, x: Tensor, rates: Rates, space: EnumeratedSpace, clock: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        """The clocks on state numbers with a table, sample by sample in compiled code."""
        from ctmc_bounds.compiled import run_clocks

        state, jumps = space.number(x), 0
        for t, h in self.schedule.intervals:
            rates.freeze(self.frozen_time(t, h), h)
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
    """The paper's Algorithm 1: candidate jumps at rate lambda, thinned by the state's rates.

    Args:
        envelope: lambda. `analytic`: `UniformCTMC.exit_rate_bound` of the score's kind: d [(S-1)/S + 1/(e^t - 1)] for
            exact scores and for cavity and posterior estimates, d (S-1) [1/S + 1/(e^t - 1)] for clipped ones; a score
            that nothing bounds is tried with the first. `max`: the largest estimated exit rate over all states.
            `adaptive`: each sample its own, raised where it arrives in a state that is left faster (counted in
            `notes`); for any score.

    Why `adaptive` is exact: the score is frozen, so the exit rate of a state is known on arrival. lambda is therefore
    fixed by the past before the next candidate is drawn, and it is never below the rate R(x) of the present state.
    Candidates come at rate lambda and are accepted with probability R(x)/lambda <= 1, so that given the past jumps to
    y come at rate lambda (r(x,y)/lambda) = r(x,y): the path is that of the CTMC. The wait for the next candidate is
    drawn anew after a change of lambda, which its memorylessness allows. Nothing is ever drawn and thrown away.

    Raises:
        EnvelopeError: if an estimated exit rate exceeds the analytic lambda (never cut off).
    """

    envelope: Envelope = "analytic"
    name: ClassVar[str] = "uniformization"
    origin: ClassVar[str] = "the paper's Algorithm 1"

    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """See `Sampler.sample`; `notes` counts candidates, and envelopes that were raised, per sample.

        Raises:
            InputError: for another envelope.
            EnvelopeError: if an estimated exit rate exceeds the analytic lambda.
        """
        if self.envelope not in ("analytic", "max", "adaptive"):
            raise InputError(f"envelope {self.envelope!r} must be analytic, max or adaptive")
        x = first_tokens(n, score, self.schedule.T, generator, init)
        rates = Rates(score, n, True if self.envelope == "max" else self.table)
        ctmc = UniformCTMC(score.S, score.d)
        candidates = jumps = raised = 0
        for t, h in self.schedule.intervals:
            rates.freeze(t, h)
            if self.envelope == "adaptive":
                drawn, moved, more = _uniformized_adaptively(x, rates, h, generator)
                raised += more
            else:
                largest = float(rates.total.max()) if self.envelope == "max" else ctmc.exit_rate_bound(
                    t, score.kind or "law")  # fmt: skip
                drawn, moved = _uniformized(x, rates, largest, h, generator)
            candidates, jumps = candidates + drawn, jumps + moved
        notes = {"candidates": candidates / n}
        if self.envelope == "adaptive":
            notes["raised_envelopes"] = raised / n
        return Samples(x, self.schedule.N + jumps / n, jumps / n, rates.evaluations, notes)


def _uniformized(
    x: Tensor, rates: Rates, largest: float, h: float, generator: torch.Generator | None
) -> tuple[int, int]:
    """Advance every sample by h in place: Poisson(lambda h) candidates; returns candidates and jumps."""
    mean = torch.full((len(x),), largest * h, dtype=torch.float64, device=x.device)
    events = torch.poisson(mean, generator=generator).long()
    candidates, jumps = int(events.sum()), 0
    total, ends = map(torch.clone, rates.at(x))
    while True:
        if float(total.max()) > largest * (1 + 1e-9):
            raise EnvelopeError(
                f"envelope lambda = {largest:.6g} at t = {rates.t:.4g} is below the exit rate {float(total.max()):.6g}"
                " of a visited state; clip the score (ctmc_bounds.Clipped, --clip), or use envelope=max or adaptive"
            )
        active = (events > 0).nonzero().squeeze(1)
        if not len(active):
            return candidates, jumps
        events[active] -= 1
        moved = _accepted(x, active, ends, torch.full_like(total[active], largest), generator)
        jumps += len(moved)
        if len(moved):
            total[moved], ends[moved] = rates.at(x[moved])


def _uniformized_adaptively(
    x: Tensor, rates: Rates, h: float, generator: torch.Generator | None
) -> tuple[int, int, int]:
    """The same with an envelope of each sample; returns candidates, jumps and how often one was raised."""
    active, candidates, jumps, raised = torch.arange(len(x), device=x.device), 0, 0, 0
    left = torch.full((len(x),), h, dtype=torch.float64, device=x.device)
    largest, ends = map(torch.clone, rates.at(x))
    while True:
        wait = torch.empty(len(active), dtype=torch.float64, device=x.device).exponential_(generator=generator)
        left[active] -= wait / largest[active]
        active = active[left[active] > 0]
        if not len(active):
            return candidates, jumps, raised
        candidates += len(active)
        moved = _accepted(x, active, ends, largest[active], generator)
        jumps += len(moved)
        if len(moved):
            total, ends[moved] = rates.at(x[moved])
            over = moved[total > largest[moved]]
            # doubled, so that it is raised a few times only
            largest[moved] = torch.where(total > largest[moved], 2 * total, largest[moved])
            raised += len(over)


def _accepted(x: Tensor, active: Tensor, ends: Tensor, largest: Tensor, generator: torch.Generator | None) -> Tensor:
    """One candidate of each active sample, thinned by its cumulative rates, in place; returns who moved."""
    u = torch.rand(len(active), 1, dtype=torch.float64, generator=generator, device=x.device) * largest.unsqueeze(1)
    moves = u.squeeze(1) < ends[active, -1]
    moved, u = active[moves], u[moves]
    move = (ends[moved] <= u).sum(1).clamp(max=ends.shape[1] - 1)
    S = ends.shape[1] // x.shape[1]
    x[moved, move // S] = move % S
    return moved
