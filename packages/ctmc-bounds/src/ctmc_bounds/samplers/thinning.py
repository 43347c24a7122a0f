"""The exact reversal by Poisson thinning (Chen and Ying, arXiv 2402.08095): no time discretisation at all."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import EnvelopeError
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import is_exact, log_scores
from ctmc_bounds.exchangeable import count_kernel
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.laws import Init, Law
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.parametrisation import set_own
from ctmc_bounds.samplers.base import Sampler, Samples, Score, first_tokens
from ctmc_bounds.spaces import CountSpace, EnumeratedSpace

MOST_EVALUATIONS = 20_000


@dataclass(frozen=True)
class Thinning(Sampler):
    """Candidates at rate Lambda'(t) = d [(S-1)/S + 1/(e^t - 1)], accepted with the exact rates at their own time.

    Only the ends of the schedule matter. That envelope holds for exact scores and for cavity and posterior estimates;
    clipped scores get theirs, d (S-1) [1/S + 1/(e^t - 1)]. A score that nothing bounds is tried with the first one,
    and checked at every candidate. With another estimator than the exact score the law is integrated by Dormand and
    Prince's method of order 8.

    Args:
        schedule: of which only T and delta are used.
        tolerance: relative, of that integration; a float32 network is not smooth enough for less than about 1e-6.

    Raises:
        EnvelopeError: if an exit rate exceeds the envelope.
    """

    tolerance: float = 1e-10
    name: ClassVar[str] = "thinning"
    origin: ClassVar[str] = "Chen and Ying, arXiv 2402.08095"

    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """See `Sampler.sample`; every candidate is a call.

        Raises:
            InputError: for delta = 0.
            EnvelopeError: if the score is above what the envelope allows (never cut off).
        """
        T, delta = self.schedule.T, self.schedule.delta
        if delta == 0:
            raise InputError("delta = 0 with sampler thinning: its envelope d/(e^t - 1) has no integral down to 0; "
                             "give delta > 0")  # fmt: skip
        x = first_tokens(n, score, T, generator, init)
        ctmc = UniformCTMC(score.S, score.d)
        share = ctmc.envelope_share(score.kind or "law")
        times = _candidate_times(n, ctmc, share, (T, delta), generator, x.device)
        jumps = calls = 0
        for column in times.T:
            active = (column > 0).nonzero().squeeze(1)
            if not len(active):
                break
            t = column[active]
            rates = set_own(score(x[active], t), x[active], 0.0).flatten(1) / score.S
            ends = rates.cumsum(1)
            envelope = ctmc.jump_rate + share * ctmc.d / torch.expm1(t)
            excess = ends[:, -1] / envelope
            if float(excess.max()) > 1 + 1e-9:
                raise EnvelopeError(
                    f"an exit rate at t = {float(t[excess.argmax()]):.4g} is {float(excess.max()):.4g} times the"
                    " envelope of thinning; clip the score (ctmc_bounds.Clipped)"
                )
            u = torch.rand(len(t), dtype=torch.float64, generator=generator, device=x.device) * envelope
            moved = u < ends[:, -1]
            move = (ends[moved] <= u[moved].unsqueeze(1)).sum(1).clamp(max=ends.shape[1] - 1)
            x[active[moved], move // score.S] = move % score.S
            jumps += int(moved.sum())
            calls += len(t)
        return Samples(x, calls / n, jumps / n, calls)

    def law(
        self,
        data: DataLaw,
        estimator: Score | None = None,
        init: Init | Tensor = "uniform",
        representation: str = "auto",
    ) -> Law:
        """q_delta K_{T-delta}[p_init / q_T] for the exact score; see `Sampler.law`."""
        marginals, p = self._start(data, estimator, init, representation)
        T, delta = self.schedule.T, self.schedule.delta
        if is_exact(estimator, data):
            ratio = p / marginals.probabilities(T)
            p = marginals.probabilities(delta) * _smooth(marginals, ratio, T - delta)
            return self._finish(marginals, p, 1)
        p, count = _integrate(marginals, estimator, p, (T, delta), self.tolerance)
        return self._finish(marginals, p, count)

    def expected_calls(self, ctmc: UniformCTMC) -> float:
        """Lambda(delta), the expected number of candidates (`UniformCTMC.envelope_integral`; more if clipped)."""
        return ctmc.envelope_integral(self.schedule.delta, self.schedule.T)


def _candidate_times(
    n: int, ctmc: UniformCTMC, share: int, ends: tuple[float, float], generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Falling event times of each sample, (n, M), 0 beyond the last.

    The envelope is the sum of a constant rate and of share d/(e^t - 1), whose integral share d log(1 - e^{-t}) has a
    closed inverse: two Poisson processes, merged.
    """
    T, delta = ends
    low, high = math.log(-math.expm1(-delta)), math.log(-math.expm1(-T))
    means = (ctmc.jump_rate * (T - delta), share * ctmc.d * (high - low))
    parts = []
    for index, mean in enumerate(means):
        count = torch.poisson(torch.full((n,), mean, dtype=torch.float64, device=device), generator=generator)
        width = int(count.max())
        u = torch.rand(n, width, dtype=torch.float64, generator=generator, device=device)
        t = delta + (T - delta) * u if index == 0 else -torch.log(-torch.expm1(low + (high - low) * u))
        parts.append(torch.where(torch.arange(width, device=device) < count.unsqueeze(1), t, 0.0))
    return torch.cat(parts, 1).sort(1, descending=True).values


def _smooth(marginals: Marginals, f: Tensor, t: float) -> Tensor:
    """K_t^{(x)d} f as a function of the state."""
    space = marginals.space
    kernel = space.ctmc.kernel(t).to(f.device)
    if isinstance(space, EnumeratedSpace):
        return space.blocks.product(space.blocks.kernel(t), f)
    if isinstance(space, CountSpace):
        return count_kernel(space, kernel) @ f
    return f @ kernel


def _integrate(
    marginals: Marginals, estimator: Any, p: Tensor, ends: tuple[float, float], tolerance: float
) -> tuple[Tensor, int]:
    """dp/du = p G_{T-u} with the estimated score taken at every time."""
    space, count = marginals.space, 0
    T, delta = ends

    def derivative(u: float, flat: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        if count > MOST_EVALUATIONS:
            raise InputError(
                f"the reverse equation took {MOST_EVALUATIONS} evaluations at tolerance {tolerance:g}: the score is not"
                " smooth enough in t for it; give the network in float64 (.double()), or a larger tolerance"
            )
        v = torch.from_numpy(flat).to(p.device).reshape(space.shape)
        rates = torch.exp(log_scores(marginals, T - u, estimator)) / space.S
        change = (v[..., space.dst] * space.inflow(rates)).sum(-1) - v * (rates * space.multiplicity).sum(-1)
        return change.reshape(-1).cpu().numpy()

    start = p.reshape(-1).cpu().numpy()
    found = solve_ivp(derivative, (0.0, T - delta), start, method="DOP853", rtol=tolerance, atol=1e-6 * tolerance)
    if not found.success:
        raise InputError(f"the reverse equation could not be integrated: {found.message}")
    return torch.from_numpy(found.y[:, -1].copy()).to(p.device).reshape(space.shape), count
