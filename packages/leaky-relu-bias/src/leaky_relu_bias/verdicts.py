"""What one run says about the paper's four statements, each by the number that decides it.

The thresholds are fixed here, before any run: over the last decade of time (SR_j - 1) ||W_j||_F^2 is flat within 1%
(C1); the block stable rank of ReLU is at most 2 (C2); the distance of the normalised margins from their limit shrinks
like 1/||W||_F (C3); t L is within 1% of its limit (C4).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from leaky_relu_bias.assumptions import Assumptions
from leaky_relu_bias.max_margin import Limits
from leaky_relu_bias.trajectory import Trajectory

FLAT = 0.01
RATE = 0.01
RELU_BOUND = 2.0
SHRINK = 0.1
Outcome = Literal["reproduced", "not reproduced", "not at this scale"]
SHORT = {"reproduced": "PASS", "not reproduced": "FAIL", "not at this scale": "NOT COVERED"}


@dataclass(frozen=True)
class RunVerdict:
    """One statement judged on one run."""

    id: str
    statement: str
    quantity: str
    expected: str
    measured: float
    verdict: Outcome
    note: str

    @property
    def short(self) -> str:
        """PASS, FAIL or NOT COVERED."""
        return SHORT[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge(trajectory: Trajectory, predicted: Limits, assumptions: Assumptions, run: int = 0) -> list[RunVerdict]:
    """C1 to C4 for one run of a trajectory.

    A statement that fails on data that the theorem does not cover is "not at this scale" (NOT COVERED) with the
    condition that fails; one that holds there is reproduced, and the note says that it was merely observed.
    """
    covered = "" if assumptions.covered else f"the theorem does not cover these data: {assumptions.uncovered_reason}"
    leaky = trajectory.nets[run].gamma > 0
    return [
        _block_rank(trajectory, run, covered) if leaky else _bounded_rank(trajectory, run, covered),
        _equal_margins(trajectory, predicted, run, covered),
        _loss_rate(trajectory, predicted, run, covered),
    ]


def last_decade(trajectory: Trajectory) -> Tensor:
    """Which checkpoints lie in the last factor of ten of time, or, far out, in the last tenth of log time."""
    log_t = trajectory.log_t
    reach = max(math.log(10) * 1.0001, 0.1 * float(log_t[-1]))
    return log_t >= log_t[-1] - reach


def flatness(values: Tensor) -> float:
    """(max - min) / last."""
    return float((values.max() - values.min()) / values[-1].abs())


def rank_products(trajectory: Trajectory, run: int = 0) -> Tensor:
    """(SR(W_j) - 1) ||W_j||_F^2 of both blocks over the checkpoints, shape (times, 2)."""
    excess, norm = (
        torch.stack([trajectory.column(name.format(block))[:, run] for block in ("pos", "neg")], dim=1)
        for name in ("sr_{}_excess", "w_fro_{}")
    )
    return excess * norm**2


def _decide(holds: bool, uncovered: str, extra: str = "") -> tuple[Outcome, str]:
    if uncovered:
        seen = "observed, though " if holds else ""
        return ("reproduced" if holds else "not at this scale"), "; ".join(filter(None, [seen + uncovered, extra]))
    return ("reproduced" if holds else "not reproduced"), extra


def _block_rank(trajectory: Trajectory, run: int, uncovered: str) -> RunVerdict:
    recent = last_decade(trajectory)
    products = rank_products(trajectory, run)[recent]
    measured = max(flatness(products[:, block]) for block in range(2))
    excess = max(float(trajectory.column(f"sr_{block}_excess")[-1, run]) for block in ("pos", "neg"))
    verdict, note = _decide(measured < FLAT, uncovered, f"largest block stable rank at the end: 1 + {excess:.3g}")
    return RunVerdict(
        "C1", "leaky ReLU: the stable rank of each block tends to 1", "change of (SR_j - 1) ||W_j||_F^2, last decade",
        f"< {FLAT:.0%}", measured, verdict, note,
    )  # fmt: skip


def _bounded_rank(trajectory: Trajectory, run: int, uncovered: str) -> RunVerdict:
    recent = last_decade(trajectory)
    ranks = torch.stack([trajectory.column(f"sr_{block}")[recent, run] for block in ("pos", "neg")])
    verdict, note = _decide(float(ranks.max()) <= RELU_BOUND, uncovered)
    return RunVerdict(
        "C2", "ReLU: the stable rank stays bounded", "largest block stable rank, last decade", f"<= {RELU_BOUND:g}",
        float(ranks.max()), verdict, note,
    )  # fmt: skip


def _equal_margins(trajectory: Trajectory, predicted: Limits, run: int, uncovered: str) -> RunVerdict:
    recent = last_decade(trajectory)
    norm = trajectory.column("w_fro")[recent, run]
    normalized = trajectory.margins[recent, run] / norm[:, None]
    statement = "all points have the same normalised margin in the limit"
    if not predicted.applicable:
        spread = float(1 - normalized[-1].min() / normalized[-1].max())
        note = f"no limit to compare with: {predicted.reason}"
        return RunVerdict("C3", statement, "1 - min / max of the margins", "-", spread, "not at this scale", note)
    # If |q / ||W|| - limit| = const / ||W||, this product does not grow.
    distance = (normalized - predicted.margins).abs().amax(1) * norm
    measured = float(distance[-1] / distance[0] - 1)
    holds = measured < SHRINK and predicted.equal_margins
    limit = f"limits {float(predicted.margins.min()):.4g} .. {float(predicted.margins.max()):.4g} ({predicted.kind})"
    if not predicted.equal_margins:
        uncovered = uncovered or "the margins' limits differ"
    verdict, note = _decide(holds, uncovered, limit)
    return RunVerdict(
        "C3", statement, "growth of |q / ||W|| - limit| ||W||, last decade", f"< {SHRINK:g}, one limit", measured,
        verdict, note,
    )  # fmt: skip


def _loss_rate(trajectory: Trajectory, predicted: Limits, run: int, uncovered: str) -> RunVerdict:
    tL = float(trajectory.column("t_times_loss")[-1, run])
    statement = "the loss decays like 1/t"
    if not predicted.applicable:
        note = f"t L = {tL:.4g} without a limit to compare with: {predicted.reason}"
        return RunVerdict("C4", statement, "|t L / limit - 1|", f"< {RATE:.0%}", math.nan, "not at this scale", note)
    measured = abs(tL / predicted.t_times_loss - 1)
    verdict, note = _decide(measured < RATE, uncovered, f"t L = {tL:.6g}, limit {predicted.t_times_loss:.6g}")
    return RunVerdict("C4", statement, "|t L / limit - 1|", f"< {RATE:.0%}", measured, verdict, note)
