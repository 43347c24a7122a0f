"""The paper's claims, measured: `claims.reproduce(scale=...)`.

Exact statements on families with closed forms (`exact`, `families`), then trained denoisers on real images: 8x8 digits
(`digits`, `baselines`) and, with a class-conditional UNet of diffusers, digits and MNIST (`unets`).
"""

from spin_diffusion.reproduce import baselines, digits, exact, families, unets
from spin_diffusion.reproduce.registry import claims

__all__ = ["baselines", "claims", "digits", "exact", "families", "unets"]
