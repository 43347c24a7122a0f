"""Divergence: the loss falls even where both errors explode, since only their difference counts."""

import logging
from typing import Any

from shared_core.errors import RunError

from spin_diffusion.config import Guard

log = logging.getLogger(__name__)
WAIT = 10  # updates between two reductions of the rate


class DivergenceGuard:
    """Watches the running d_real, the policy's error on real samples minus the opponent's.

    A healthy run keeps it within a fraction of a percent of the opponent's error.

    Args:
        mode: `warn` once, `shrink` the learning rate by half each time, or `stop`.
        limit: share of the opponent's error that d_real may reach.
        smoothing: share of the past in the running means.
    """

    def __init__(self, mode: Guard = "warn", limit: float = 0.02, smoothing: float = 0.9) -> None:
        self.mode, self.limit, self.smoothing = mode, limit, smoothing
        self.rate_factor = 1.0
        self._weight, self._excess, self._error = 0.0, 0.0, 0.0
        self._last = -WAIT

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Take one update's metrics.

        Raises:
            RunError: in mode `stop`, when the limit is passed.
        """
        if self.mode == "off" or "d_real" not in metrics:
            return
        keep = self.smoothing
        self._weight = keep * self._weight + 1 - keep
        self._excess = keep * self._excess + (1 - keep) * metrics["d_real"]
        self._error = keep * self._error + (1 - keep) * metrics["ref_real"]
        share = self._excess / self._error if self._error > 0 else 0.0
        if step < WAIT or share <= self.limit:
            return
        text = (
            f"update {step}: the error on real samples is {share:.1%} above the opponent's (limit {self.limit:.1%}); "
            "the run diverges, although its loss falls: raise beta or lower learning_rate"
        )
        if self.mode == "stop":
            raise RunError(text)
        if self.mode == "shrink" and step - self._last >= WAIT:
            self.rate_factor /= 2
            self._last = step
            log.warning("%s; the rate is now %g of its schedule", text, self.rate_factor)
        elif self.mode == "warn" and self._last < 0:
            self._last = step
            log.warning("%s", text)

    def state(self) -> dict[str, float]:
        """What a resumed run needs."""
        names = ("rate_factor", "_weight", "_excess", "_error", "_last")
        return {name: float(getattr(self, name)) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        for name, value in state.items():
            setattr(self, name, value)
