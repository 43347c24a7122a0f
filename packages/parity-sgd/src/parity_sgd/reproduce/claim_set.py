"""What the claims share: their set, and the seeds that are reported."""

from dataclasses import replace

from shared_core.claims import ClaimSet, Context, Measurement

claims = ClaimSet("parity-sgd")
SHOWN_SEEDS = 10_000
"""First seed of what is reported; settings were chosen on seeds below."""


NO_SLOPES_AT_SMOKE = "three small sizes and a few seeds decide no exponent: at smoke scale it is only shown"


def decided_by_slope(context: Context, found: Measurement) -> Measurement:
    """A claim about an exponent, undecided at smoke scale whatever was measured there."""
    if context.scale != "smoke":
        return found
    return replace(found, holds=None, note=f"{NO_SLOPES_AT_SMOKE}; {found.note}")


def shown_seeds(context: Context, count: int) -> list[int]:
    """Consecutive seeds for one claim; another `--seed` gives other ones."""
    return [SHOWN_SEEDS + 1000 * (context.seed % 1000) + offset for offset in range(count)]
