"""The paper's mechanism: early SAM switches the noise neurons off at W + eps, which leaves room for the feature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sam_cnn.patches import PatchData
from sam_cnn.simulation import Outcome, Record, Training, trace


@dataclass(frozen=True)
class Mechanism:
    """GD and SAM-then-GD from the same starts on the same data.

    Attributes:
        gd: outcome of GD for all steps.
        sam: outcome of SAM for the first steps, then GD.
        gd_records: states of GD.
        sam_records: states of SAM-then-GD.
    """

    gd: Outcome
    sam: Outcome
    gd_records: list[Record]
    sam_records: list[Record]

    def rows(self) -> list[dict[str, Any]]:
        """Means over seeds at each recorded step."""
        rows = []
        for gd, sam in zip(self.gd_records, self.sam_records, strict=True):
            there = sam.perturbed
            rows.append(
                {
                    "step": gd.step,
                    "gd_signal": float(gd.at_weights.signal.mean()),
                    "gd_noise": float(gd.at_weights.noise.mean()),
                    "sam_signal": float(sam.at_weights.signal.mean()),
                    "sam_noise": float(sam.at_weights.noise.mean()),
                    "gd_active": float(gd.at_weights.active_on_noise.mean()),
                    "sam_active": float(sam.at_weights.active_on_noise.mean()),
                    "sam_active_perturbed": None if there is None else float(there.active_on_noise.mean()),
                    "sam_signal_active_perturbed": None if there is None else float(there.active_on_signal.mean()),
                    "gd_signal_alignment": float(gd.gamma.mean()),
                    "sam_signal_alignment": float(sam.gamma.mean()),
                    "gd_noise_memorisation": float(gd.rho.mean()),
                    "sam_noise_memorisation": float(sam.rho.mean()),
                }
            )
        return rows


def compare_mechanism(
    data: PatchData,
    training: Training,
    seeds: Sequence[int],
    at: Sequence[int],
    device: torch.device | str = "cpu",
) -> Mechanism:
    """Trace GD and `training` (SAM with its tau and sam_steps) in one cell.

    Raises:
        InputError: if a step is not in 0..steps.
    """
    plain, gd_records = trace(data, replace(training, tau=0.0, sam_steps=None), seeds, at, device)
    sharp, sam_records = trace(data, training, seeds, at, device)
    return Mechanism(plain, sharp, gd_records, sam_records)
