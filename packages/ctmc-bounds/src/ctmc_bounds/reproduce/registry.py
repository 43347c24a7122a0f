"""The claims of the package, and the laws and schedules that they share."""

import math
from collections.abc import Sequence

import torch
from shared_core.claims import ClaimSet, Context

from ctmc_bounds.chains import IsingRing
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.exchangeable import two_point
from ctmc_bounds.samplers import make_sampler
from ctmc_bounds.schedules import Schedule, exp_const
from ctmc_bounds.spec import cat4, mix

claims = ClaimSet("ctmc-bounds")
T, DELTA = 6.0, 0.01
EXACT = "Exact laws in float64: no seeds."


def base_laws(context: Context) -> dict[str, DataLaw]:
    """The four laws of most claims."""
    laws: dict[str, DataLaw] = {"mix6": mix(6), "ising6": IsingRing(6), "two-point6": two_point(6), "cat4": cat4()}
    return {name: law.to(context.device) for name, law in laws.items()}


def kl_of(name: str, data: DataLaw, schedule: Schedule, init: str = "exact") -> float:
    """KL(q_delta || law) of a sampler by name."""
    return make_sampler(name, schedule).law(data, init=init).kl  # type: ignore[arg-type]


def grid(N: int, delta: float = DELTA) -> Schedule:
    """exp_const from T = 6."""
    return exp_const(T, delta, N)


def slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Local exponents between neighbouring points."""
    return [math.log(b / a) / math.log(w / v) for v, w, a, b in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True)]


def generator(context: Context, offset: int = 0) -> torch.Generator:
    """A generator of its own for each draw of a claim."""
    return torch.Generator(device=context.device).manual_seed((context.seed + 7919 * offset) % 2**32)
