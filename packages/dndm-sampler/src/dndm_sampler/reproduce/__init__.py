"""The paper's claims, measured: `claims.reproduce(scale=...)`.

Laws by exact enumeration (`exact`), the number of calls (`calls`), an exact denoiser on real letter statistics
(`letters`), a trained one (`text`), and the translation task with an exact denoiser (`numbers`) and a trained one
(`translator`).
"""

from dndm_sampler.reproduce import calls, exact, letters, numbers, text, translator
from dndm_sampler.reproduce.registry import claims

__all__ = ["calls", "claims", "exact", "letters", "numbers", "text", "translator"]
