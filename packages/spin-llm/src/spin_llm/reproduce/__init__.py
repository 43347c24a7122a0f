"""The paper's claims, measured: `spin-llm reproduce`."""

from spin_llm.reproduce import network, real_model, theory  # noqa: F401 - each registers its claims
from spin_llm.reproduce.registry import claims

__all__ = ["claims"]
