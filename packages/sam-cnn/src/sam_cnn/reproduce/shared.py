"""The set of claims, and what several of them use."""

import math
from typing import Any

import numpy as np
from shared_core.claims import ClaimSet, Context

# two-sided 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


claims = ClaimSet("sam-cnn", one_thread=("smoke", "laptop", "paper"))  # kernels of microseconds at every scale

MEMORY = "The theorem's constants are open and its wording is known to us from public records, not from the full text."


def seeds(context: Context, count: int, block: int = 0) -> range:
    """Seeds of a claim's runs: none is shared by different `--seed`; block 1 is for selection."""
    first = (2 * context.seed + block) * 100_000
    return range(first, first + count)


def mean_interval(values: Any) -> tuple[float, float]:
    """95 % interval of the mean: Student's t up to ten values, normal beyond."""
    array = np.asarray(values, dtype=float)
    factor = STUDENT[len(array) - 2] if len(array) <= len(STUDENT) + 1 else 1.96
    half = factor * array.std(ddof=1) / math.sqrt(len(array))
    return float(array.mean() - half), float(array.mean() + half)
