"""The claims in the order in which they are shown."""

from collections.abc import Sequence
from pathlib import Path

import torch
from shared_core.claims import ClaimSet, Scale


class OneThreadClaims(ClaimSet):
    """Below `paper` one torch thread: the networks are small, and threads that wait for a busy core cost more."""

    def reproduce(
        self,
        *,
        scale: Scale = "laptop",
        claims: Sequence[str] | None = None,
        out: str | Path | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> int:
        """As `ClaimSet.reproduce`; the number of threads is restored."""
        before = torch.get_num_threads()
        torch.set_num_threads(before if scale == "paper" else 1)
        try:
            return super().reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)
        finally:
            torch.set_num_threads(before)


claims = OneThreadClaims("spin-llm")
