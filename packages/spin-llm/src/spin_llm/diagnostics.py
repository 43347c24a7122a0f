"""Safety rails: what a run's numbers say while it can still be mended."""

import logging

from spin_llm.losses import contraction_factor
from spin_llm.optimization import Step

log = logging.getLogger(__name__)


class Watch:
    """Warns, once each, when an iteration overshoots (margin decomposition, a consequence of eq. 4.7).

    In expectation margin / beta = (nats by which the real responses became likelier) + KL(p_t || p). A margin that
    grows through the second term only is the well-known fall of log-probabilities.

    Args:
        beta: the paper's lambda.
        kl_limit: nats a response.
        smoothing: share of the past in the running means.
    """

    def __init__(self, beta: float, kl_limit: float, smoothing: float = 0.8) -> None:
        self.beta, self.kl_limit, self.smoothing = beta, kl_limit, smoothing
        self.means: dict[str, float] = {}
        self.warned: set[str] = set()

    def __call__(self, step: Step) -> None:
        """Take one step's metrics."""
        for name in ("kl/opponent", "nll_gain", "rewards/margins"):
            now = step.metrics.get(name, 0.0)
            self.means[name] = self.smoothing * self.means.get(name, now) + (1 - self.smoothing) * now
        kl, gain, margin = (self.means[name] for name in ("kl/opponent", "nll_gain", "rewards/margins"))
        advice = (
            f"raise beta (now {self.beta:g}, |1 - 1/beta| = {contraction_factor(self.beta):.3g}) or lower learning_rate"
        )
        if kl > self.kl_limit:
            self._warn("kl", f"step {step.number}: KL to the opponent is {kl:.2f} nats a response; {advice}")
        if step.number >= 5 and gain < 0 < margin:
            self._warn(
                "gain", f"step {step.number}: the margin grows while real responses lose {-gain:.2f} nats; {advice}"
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            log.warning("%s", text)
