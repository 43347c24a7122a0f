"""The signal-noise decomposition: alignment with the signal and with each noise vector, and which neurons are active.

w_{j,r} = w_{j,r}(0) + j gamma_{j,r} mu/|mu|^2 + (1/(P-1)) sum_i rho_{j,r,i} xi_i/||xi_i||^2
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sam_cnn.dynamics import outputs
from sam_cnn.span import Span


@dataclass(frozen=True)
class Decomposition:
    """gamma (feature learning) and rho (noise): rho > 0 only on own-label neurons is memorisation.

    Attributes:
        gamma: of each neuron.
        rho: of each neuron and noise vector.
    """

    gamma: Float[Tensor, "run 2m"]
    rho: Float[Tensor, "run 2m nq"]


def decompose(span: Span, coefficients: Float[Tensor, "run 2m k"]) -> Decomposition:
    """The decomposition of W(0) + C V from C."""
    squared = span.gram.diagonal(dim1=-2, dim2=-1)
    return Decomposition(
        gamma=span.signs * coefficients[..., 0] * squared[:, :1],
        rho=coefficients[..., 1:] * squared[:, None, 1:] * span.copies,
    )


@dataclass(frozen=True)
class Activity:
    """Means over samples and own-label neurons (j = y_i), one number a run.

    Attributes:
        signal: signal part of y f.
        noise: noise part of y f.
        active_on_noise: fraction of own-label neurons with <w, xi_i> > 0.
        active_on_signal: fraction of neurons with <w, j mu> > 0.
    """

    signal: Float[Tensor, "run"]
    noise: Float[Tensor, "run"]
    active_on_noise: Float[Tensor, "run"]
    active_on_signal: Float[Tensor, "run"]


def activity(span: Span, S: Float[Tensor, "run 2m k"]) -> Activity:
    """Activity at the weights whose inner products are S (W or W + eps)."""
    signal, noise = outputs(span, S)
    own = span.signs[:, None] == span.y.repeat_interleave(span.noises, -1)[:, None]
    active = (own & (S[..., 1:] > 0)).double().sum((-2, -1)) / own.double().sum((-2, -1))
    on_signal = (span.signs * S[..., 0] > 0).double().mean(-1)
    return Activity(signal.mean(-1), noise.mean(-1), active, on_signal)
