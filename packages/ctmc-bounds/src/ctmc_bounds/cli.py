"""The command `ctmc-bounds`: verbs to public functions."""

from shared_core.cli import Verb, run

from ctmc_bounds.commands.laws import bound, compare, law
from ctmc_bounds.commands.planning import plan, scan, schedule
from ctmc_bounds.commands.work import reproduce, sample, train, verify


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Verb] = [law, bound, scan, compare, plan, schedule, sample, verify, train, reproduce]
    return run("ctmc-bounds", verbs, summary="Exact laws and error bounds of score-based discrete diffusion on [S]^d.")
