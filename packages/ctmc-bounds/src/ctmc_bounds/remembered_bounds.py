"""The paper's bounds as remembered, up to constants it does not state: to be compared in shape, never as certificates.

The paper's full text was not at hand. The abstract and its public reviews confirm three terms (mixing, score error,
discretisation) and what the constants mean; the powers below are from memory and unverified.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared_core.errors import InputError

from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.schedules import Schedule

STATUS = "form from memory, unverified; holds up to a universal constant that the paper does not specify"
Form = Literal["thm1", "thm2"]


@dataclass(frozen=True)
class PaperBound:
    """constant x (mixing + score + discretisation); see `status`.

    Attributes:
        mixing: d e^{-T} log S.
        score: the score error of Assumption 1.
        discretisation: C_1^2 S^2 h^2 d T (Theorem 1), kappa^2 S^2 h^2 T (Theorem 2).
        constant: the universal constant assumed.
        status: how far to trust it.
    """

    mixing: float
    score: float
    discretisation: float
    constant: float
    form: Form
    status: str = STATUS

    @property
    def total(self) -> float:
        """The bound on KL."""
        return self.constant * (self.mixing + self.score + self.discretisation)


def paper_bound(
    ctmc: UniformCTMC,
    schedule: Schedule,
    form: Form = "thm1",
    score: float = 0.0,
    C1: float | None = None,
    kappa_squared: float | None = None,
    constant: float = 1.0,
) -> PaperBound:
    """The remembered form of Theorem 1 (early stopping) or Theorem 2 (full support).

    Args:
        ctmc: S and d.
        schedule: T, delta and the largest step h.
        form: thm1 or thm2.
        score: sum_k h_k L_SE(t_k).
        C1: uniform bound of true and estimated scores; by default 1 + S/(e^delta - 1), which holds for any data.
        kappa_squared: sum of squared ratios of data probabilities (thm2); d by default (kappa_i = 1).
        constant: the universal constant.

    Raises:
        InputError: for thm1 with delta = 0 and no C1, or an unknown form.
    """
    h = max(step for _, step in schedule.intervals)
    mixing = ctmc.mixing_bound(schedule.T)
    if form == "thm1":
        bound = ctmc.score_bounds(schedule.delta)[1] if C1 is None else C1
        if not math.isfinite(bound):
            raise InputError("delta = 0 with form thm1: C1 (largest score) is infinite without early stopping; give C1")
        term = bound**2 * ctmc.S**2 * h**2 * ctmc.d * schedule.T
    elif form == "thm2":
        term = (ctmc.d if kappa_squared is None else kappa_squared) * ctmc.S**2 * h**2 * schedule.T
    else:
        raise InputError(f"form {form!r} must be thm1 or thm2")
    return PaperBound(mixing, score, term, constant, form)


def fit_constant(measured: Sequence[float], bounds: Sequence[PaperBound]) -> float:
    """The smallest constant with which the form holds over a scan: max of measured / (bound with constant 1)."""
    return max(value / (bound.total / bound.constant) for value, bound in zip(measured, bounds, strict=True))
