"""The command `spin-diffusion`: verbs to public functions."""

import logging
import sys
from typing import Literal

from shared_core.cli import run as run_command

from spin_diffusion.verbs.baselines import dpo, sft
from spin_diffusion.verbs.images import doctor, eval_, merge, sample, toy
from spin_diffusion.verbs.self_play import run
from spin_diffusion.verbs.stages import generate, prepare, train

SWITCHES = ("--json", "--no-json", "--quiet", "--no-quiet", "--debug", "--no-debug", "--help", "--print_config")
SUMMARY = "Self-play fine-tuning of text-to-image diffusion models (SPIN-Diffusion)."


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print the table.

    Args:
        scale: smoke (seconds), laptop (minutes) or paper.
        claims: ids; all by default.
        out: run folder.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.reproduce import claims as registered

    return registered.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


VERBS = (toy, prepare, sft, generate, train, run, sample, eval_, dpo, merge, doctor, reproduce)


def main() -> int:
    """The entry point."""
    # torch sets its own level when it is all imported; interrupted before, it would log statistics at the exit
    logging.getLogger("torch").setLevel(logging.WARNING)
    return run_command("spin-diffusion", VERBS, _named_model(sys.argv[1:]), summary=SUMMARY)


def _named_model(arguments: list[str]) -> list[str]:
    """Let `doctor` take its model as the other verbs do: what has a default is an option to the parser."""
    if arguments[:1] != ["doctor"]:
        return arguments
    named, expected = ["doctor"], False
    for argument in arguments[1:]:
        bare = not argument.startswith("-") and not expected and "--model" not in " ".join(named)
        named.append(f"--model={argument}" if bare else argument)
        expected = argument.startswith("--") and "=" not in argument and argument not in SWITCHES
    return named
