"""The command `spin-llm`: verbs to public functions."""

import logging
import sys
from itertools import pairwise

from shared_core.cli import run as run_command

from spin_llm.verbs.baselines import dpo, eval_, sft
from spin_llm.verbs.data import doctor, export, inspect, prepare, reproduce
from spin_llm.verbs.self_play import generate, run, train

SUMMARY = "Self-play fine-tuning of language models (SPIN)."
VERBS = (prepare, inspect, sft, generate, train, run, eval_, dpo, export, doctor, reproduce)


def main() -> int:
    """The entry point."""
    # torch sets this at the end of its import: interrupted before, it would log statistics of its caches at exit
    logging.getLogger("torch").setLevel(logging.WARNING)
    return run_command("spin-llm", VERBS, with_model_named(sys.argv[1:]), SUMMARY)


def with_model_named(arguments: list[str]) -> list[str]:
    """`doctor MODEL` as `doctor --model MODEL`: what a signature has no need of cannot be positional otherwise."""
    if arguments[:1] != ["doctor"]:
        return arguments
    for place, (before, given) in enumerate(pairwise(arguments), start=1):
        if not given.startswith("-") and before not in ("--model", "--device", "--config"):
            return [*arguments[:place], "--model", *arguments[place:]]
    return arguments
