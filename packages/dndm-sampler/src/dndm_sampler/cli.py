"""The command `dndm-sampler`: verbs to public functions."""

from typing import Literal

from shared_core.cli import run


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper uses the paper's sizes.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/dndm-sampler-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from dndm_sampler.reproduce import claims as paper_claims

    return paper_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    return run("dndm-sampler", [reproduce], summary="Fast sampling for discrete diffusion (DNDM).")
