"""The paper's claims: `theory` in closed form, `trained` by sampled and trained models."""

from icl_linear.reproduce import theory, trained
from icl_linear.reproduce.shared import claims

__all__ = ["claims", "theory", "trained"]
