"""The command `spin-llm`: verbs to public functions."""

from shared_core.cli import run as run_command

from spin_llm.verbs.baselines import dpo, eval_, sft
from spin_llm.verbs.data import doctor, export, inspect, prepare, reproduce
from spin_llm.verbs.self_play import generate, run, train

SUMMARY = "Self-play fine-tuning of language models (SPIN)."
VERBS = (prepare, inspect, sft, generate, train, run, eval_, dpo, export, doctor, reproduce)


def main() -> int:
    """The entry point."""
    return run_command("spin-llm", VERBS, summary=SUMMARY)
