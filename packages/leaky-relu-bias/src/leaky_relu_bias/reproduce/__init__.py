"""The paper's claims."""

from shared_core.claims import ClaimSet

claims = ClaimSet("leaky-relu-bias")
