"""All samplers under one interface; `make_sampler(name, schedule)` makes any of them."""

from typing import Any

from shared_core.errors import InputError

from ctmc_bounds.samplers.base import Sampler, Samples, noised
from ctmc_bounds.samplers.state_frozen import Euler, FirstJump, TauLeapingOrdinal, TauLeapingReject, Tweedie
from ctmc_bounds.samplers.theta import ThetaRK2, ThetaTrapezoidal
from ctmc_bounds.samplers.thinning import Thinning
from ctmc_bounds.samplers.time_frozen import Midpoint, TimeFrozen, Uniformization
from ctmc_bounds.schedules import Schedule

SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind
    for kind in (
        TimeFrozen, Uniformization, Midpoint, Thinning, Euler, TauLeapingReject, TauLeapingOrdinal, FirstJump, Tweedie,
        ThetaTrapezoidal, ThetaRK2,
    )
}  # fmt: skip

__all__ = [
    "SAMPLERS", "Euler", "FirstJump", "Midpoint", "Sampler", "Samples", "TauLeapingOrdinal", "TauLeapingReject",
    "ThetaRK2", "ThetaTrapezoidal", "Thinning", "TimeFrozen", "Tweedie", "Uniformization", "make_sampler", "noised",
]  # fmt: skip


def make_sampler(name: str, schedule: Schedule, **options: Any) -> Sampler:
    """The sampler of that name (a key of `SAMPLERS`) on a schedule.

    Raises:
        InputError: for an unknown name.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} is none of {', '.join(SAMPLERS)}")
    return SAMPLERS[name](schedule, **options)
