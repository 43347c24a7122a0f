"""The frame model: what each method's accuracy is when a question can be read in several frames."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FrameModel:
    """A question that can be read in K ways.

    Args:
        bare: pi_i = P(frame i | bare question).
        rephrased: rho_i = P(frame i | rephrasing).
        direct: a_i = P(gold answer | frame i), without steps.
        stepwise: b_i = P(gold answer | frame i), with steps.
        ignore: d = P(the responder does not heed the rephrasing).

    Raises:
        ValueError: if lengths differ or something is no probability.
    """

    bare: tuple[float, ...]
    rephrased: tuple[float, ...]
    direct: tuple[float, ...]
    stepwise: tuple[float, ...]
    ignore: float = 0.0

    def __post_init__(self) -> None:
        lists = (self.bare, self.rephrased, self.direct, self.stepwise)
        if len({len(values) for values in lists}) != 1:
            raise ValueError(f"every list must have one entry per frame, got lengths {[len(v) for v in lists]}")
        if any(not -1e-12 <= p <= 1 + 1e-12 for values in (*lists, (self.ignore,)) for p in values):
            raise ValueError("every entry must be a probability in [0, 1]")
        if any(abs(sum(values) - 1) > 1e-9 for values in (self.bare, self.rephrased)):
            raise ValueError("the frame distributions must sum to 1")

    @property
    def heard(self) -> tuple[float, ...]:
        """m_i = (1 - d) rho_i + d pi_i: the frame in which a rephrased question is answered."""
        d = self.ignore
        return tuple((1 - d) * rho + d * pi for rho, pi in zip(self.rephrased, self.bare, strict=True))

    def accuracy(self, method: str) -> float:
        """Exact accuracy: plain = pi.a, cot = pi.b, rar = m.a, rar-cot = m.b.

        Raises:
            ValueError: for another method.
        """
        if method not in ("plain", "cot", "rar", "rar-cot"):
            raise ValueError(f"method must be plain, cot, rar or rar-cot, got {method!r}")
        frames = self.heard if method.startswith("rar") else self.bare
        return _dot(frames, self.stepwise if method.endswith("cot") else self.direct)

    @property
    def interaction(self) -> float:
        """(m - pi).(b - a): what steps and rephrasing give together beyond the sum of what each gives alone."""
        shift = [m - pi for m, pi in zip(self.heard, self.bare, strict=True)]
        return _dot(shift, [b - a for a, b in zip(self.direct, self.stepwise, strict=True)])

    def draw_frame(self, draw: random.Random, rephrased: bool) -> int:
        """Draw the frame of a bare question, or of a rephrasing (before the responder may ignore it)."""
        weights = self.rephrased if rephrased else self.bare
        return draw.choices(range(len(weights)), weights)[0]

    def draw_right(self, draw: random.Random, frame: int, steps: bool) -> bool:
        """Draw whether the answer given in a frame is the gold one."""
        return draw.random() < (self.stepwise if steps else self.direct)[frame]


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))
