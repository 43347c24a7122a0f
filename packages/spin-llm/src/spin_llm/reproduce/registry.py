"""The claims in the order in which they are shown."""

from shared_core.claims import ClaimSet

claims = ClaimSet("spin-llm")
