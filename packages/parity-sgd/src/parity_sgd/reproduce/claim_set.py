"""What the claims share: their set, and the seeds that are reported."""

from shared_core.claims import ClaimSet, Context

claims = ClaimSet("parity-sgd")
SHOWN_SEEDS = 10_000
"""First seed of what is reported; settings were chosen on seeds below."""


def shown_seeds(context: Context, count: int) -> list[int]:
    """Consecutive seeds for one claim; another `--seed` gives other ones."""
    return [SHOWN_SEEDS + 1000 * (context.seed % 1000) + offset for offset in range(count)]
