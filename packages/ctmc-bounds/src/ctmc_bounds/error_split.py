"""KL of a sampler with an estimated score, split exactly into initialisation, score and discretisation. Ours."""

from dataclasses import dataclass
from typing import Any

from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.laws import Law
from ctmc_bounds.samplers.base import Sampler
from ctmc_bounds.samplers.thinning import Thinning


@dataclass(frozen=True)
class ErrorSplit:
    """initialisation + score + discretisation = total, to rounding.

    Attributes:
        initialisation: KL of the exact reversal started from uniform noise instead of q_T.
        score: what the estimated score adds to it, still without any time discretisation.
        discretisation: what the sampler's steps add to that; may be negative, where its error happens to compensate.
        total: KL(q_delta || law of the sampler).
    """

    initialisation: float
    score: float
    discretisation: float
    total: float


def continuous_laws(data: DataLaw, sampler: Sampler, estimator: Any) -> tuple[Law, Law]:
    """Laws of the exact reversal from uniform noise, with the exact score and with the estimate."""
    exact = Thinning(sampler.schedule)
    return exact.law(data, None, "uniform", "enumerated"), exact.law(data, estimator, "uniform", "enumerated")


def split_error(data: DataLaw, sampler: Sampler, estimator: Any, laws: tuple[Law, Law] | None = None) -> ErrorSplit:
    """Three laws, each with one more source of error, and the differences of their KL.

    Args:
        data: the target, enumerable.
        sampler: any with a law.
        estimator: of the score.
        laws: `continuous_laws` where they are known already (they depend on T and delta only).
    """
    start, continuous = continuous_laws(data, sampler, estimator) if laws is None else laws
    total = sampler.law(data, estimator, "uniform", "enumerated").kl
    return ErrorSplit(start.kl, continuous.kl - start.kl, total - continuous.kl, total)
