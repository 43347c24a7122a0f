"""The claims: `steps` and `bounds` in the step size, `dependence` on d, S, T and delta, `sampling`, `trained`."""

from ctmc_bounds.reproduce import bounds, dependence, sampling, steps, trained
from ctmc_bounds.reproduce.registry import claims

__all__ = ["bounds", "claims", "dependence", "sampling", "steps", "trained"]
