"""The paper's claims, measured.

Places are named as far as public sources of the paper allow; the entries of its tables could not be read there, so no
claim quotes them. Sizes and thresholds were fixed from the statements before the reported seeds were run.
"""

from parity_sgd.reproduce import outcome  # noqa: I001 - claims are shown in the order in which they are registered
from parity_sgd.reproduce import complexity
from parity_sgd.reproduce import mechanism
from parity_sgd.reproduce.claim_set import claims

__all__ = ["claims", "complexity", "mechanism", "outcome"]
