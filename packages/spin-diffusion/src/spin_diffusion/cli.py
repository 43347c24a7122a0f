"""The command `spin-diffusion`: verbs to public functions."""

from typing import Literal

from shared_core.cli import run as run_command

from spin_diffusion.verbs.baselines import dpo, sft
from spin_diffusion.verbs.images import doctor, eval_, merge, sample, toy
from spin_diffusion.verbs.self_play import run
from spin_diffusion.verbs.stages import generate, prepare, train

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
    return run_command("spin-diffusion", VERBS, summary=SUMMARY)
