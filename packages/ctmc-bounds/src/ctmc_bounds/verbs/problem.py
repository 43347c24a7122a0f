"""What several verbs are about: a data law, an estimator of its score, a sampler on a schedule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from shared_core.device import check_seed, resolve_device
from shared_core.errors import InputError

from ctmc_bounds.cavity_network import load_network
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import Clipped, ConstantBias, LogNormalNoise, ScoreEstimator
from ctmc_bounds.planner import make_schedule
from ctmc_bounds.samplers import SAMPLERS, Sampler, make_sampler
from ctmc_bounds.schedules import Schedule, constant, exp_const
from ctmc_bounds.spec import read_data
from ctmc_bounds.verbs.combinations import refuse_idle


@dataclass(frozen=True)
class Problem:
    """Options shared by the verbs, as typed; `data_law`, `estimator` and `sampler_on` make the objects."""

    data: str
    sampler: str = "paper"
    T: float = 6.0
    delta: float = 0.01
    grid: str = "exp_const"
    N: int = 64
    c: float | None = None
    init: str = "uniform"
    representation: str = "auto"
    score_noise: float = 0.0
    score_bias: float = 0.0
    network: str | None = None
    clip: bool = False
    theta: float = 0.5
    inner: str = "first_jump"
    envelope: str = "analytic"
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Problem":
        """From a verb's options as typed; what is not about the problem is left out.

        Raises:
            InputError: for an option without effect, or an estimate's error that is not finite.
        """
        refuse_idle(options)
        chosen = {item.name: options[item.name] for item in fields(cls) if item.name in options}
        problem = cls(**{**chosen, "c": options.get("c") or None})
        if not (math.isfinite(problem.score_noise) and problem.score_noise >= 0):
            raise InputError(f"--score-noise {problem.score_noise}: a standard deviation is finite and >= 0")
        if not math.isfinite(problem.score_bias):
            raise InputError(f"--score-bias {problem.score_bias}: the bias of log-scores must be finite")
        if problem.c is not None and problem.grid != "exp_const":
            raise InputError(f"--c {problem.c} belongs to --grid exp_const, not {problem.grid}")
        return problem

    def settings(self) -> dict[str, Any]:
        """What determines the result, for the run folder."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def data_law(self, **changes: Any) -> DataLaw:
        """The law; `changes` replace keys of its description."""
        check_seed(self.seed)
        return law_on(self.data, self.device, **changes)

    def estimator(self, data: DataLaw) -> ScoreEstimator | None:
        """None for the exact score; else the network, and the errors asked for on top, and clipping."""
        base: Any = data if self.network is None else load_network(self.network, data.device)
        if (base.S, base.d) != (data.S, data.d):
            raise InputError(
                f"--network {self.network} is for S = {base.S}, d = {base.d}; the data have S = {data.S}, d = {data.d}"
            )
        if self.score_noise:
            base = LogNormalNoise(base, self.score_noise, self.seed)
        if self.score_bias:
            base = ConstantBias(base, self.score_bias)
        if self.clip and base is not data:
            base = Clipped(base)
        return None if base is data else base

    def schedule(self, data: DataLaw | None, name: str | None = None) -> Schedule:
        """The grid of a sampler (by default `sampler`); thinning has none, only its ends."""
        if (name or self.sampler) == "thinning":
            return constant(self.T, self.delta, 1)
        if self.c is not None:
            return exp_const(self.T, self.delta, c=self.c)
        return make_schedule(self.grid, self.T, self.delta, self.N, data)  # type: ignore[arg-type]

    def sampler_on(self, schedule: Schedule, name: str | None = None) -> Sampler:
        """The sampler with the options that belong to it."""
        chosen = self.sampler if name is None else name
        options: dict[str, Any] = {}
        if chosen in ("euler", "tweedie"):
            options["strict"] = not self.clip
        elif chosen in ("theta_trapezoidal", "theta_rk2"):
            options = {"theta": self.theta, "inner": self.inner}
        elif chosen == "uniformization":
            options["envelope"] = self.envelope
        return make_sampler(chosen, schedule, **options)


def law_on(data: str, device: str, **changes: Any) -> DataLaw:
    """The law that `data` describes, on `device`.

    Raises:
        InputError: for a device without float64, or a description that cannot be read.
    """
    chosen = resolve_device(device)
    if chosen.type == "mps":
        raise InputError("device 'mps' has no float64, in which laws are computed; use cpu or cuda")
    return read_data(data, chosen, **changes)


def calls_notes(problem: Problem, samplers: Sequence[str]) -> list[str]:
    """What must be said of the column `calls` where the score is an estimate."""
    estimated = problem.score_noise or problem.score_bias or problem.network
    if not estimated or not set(samplers) & {"paper", "midpoint", "uniformization"}:
        return []
    return ["calls of time-frozen samplers: expected with the exact score; a wrong score jumps more or less often"]


def check_samplers(names: list[str]) -> None:
    """Refuse an unknown name.

    Raises:
        InputError: naming it.
    """
    for name in names:
        if name not in SAMPLERS:
            raise InputError(f"--samplers: {name!r} is none of {', '.join(SAMPLERS)}")
