"""Where the claims of this package are registered."""

from shared_core.claims import ClaimSet

claims = ClaimSet("rar-prompt")
