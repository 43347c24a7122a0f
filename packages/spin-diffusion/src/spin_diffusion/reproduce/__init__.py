"""The paper's claims, measured: `claims.reproduce(scale=...)`.

Exact statements on families with closed forms (`exact`, `families`), then trained denoisers on real images: 8x8 digits
(`digits`, `baselines`) and, with a class-conditional UNet of diffusers, digits and MNIST (`unets`).
"""

# in the order in which the claims are to be listed
from spin_diffusion.reproduce import exact, families, digits, baselines, unets  # isort: skip
from spin_diffusion.reproduce.registry import claims

__all__ = ["baselines", "claims", "digits", "exact", "families", "unets"]
