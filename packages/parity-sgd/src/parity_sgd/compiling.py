"""numba's compiler as this package uses it.

Its cache notices a change of the file that holds a function, not of the files that this one imports from: after an edit
of `lanes`, `lookup` or `streams` delete `__pycache__/*.nbi`, or `steps` goes on with the old code.
"""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile without the interpreter's lock; kept where any folder for that can be written (not so in some images)."""

    def compile_later(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba's word for: no folder
            return numba.njit(nogil=True, **options)(function)

    return compile_later
