"""GD, SGD and SAM on the two-layer network, in the span form.

l'_i = -1 / (1 + exp(y_i f_i))
gradient on a batch of B:  sum_i l'_i j y_i [ yhat_i 1(<w, yhat_i mu> > 0) mu + copies 1(<w, xi_i> > 0) xi_i ] / (B m)
SAM:  W <- W - eta grad L(W + tau grad L(W) / ||grad L(W)||_F), both gradients on the same batch
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from sam_cnn.span import Span

# step, S = W V^T, S at W + eps (None in a plain step), C with W = W(0) + C V
Observer = Callable[[int, Tensor, Tensor | None, Tensor], None]


@dataclass(frozen=True)
class Schedule:
    """How many steps, how many of them SAM's, on which batches.

    Args:
        steps: in all.
        sam_steps: the first so many are SAM's, the rest plain (the theorem's SAM-then-SGD); None for all.
        batch_size: B; None for the full batch. Each epoch is shuffled; its last batch holds what is left over.

    Raises:
        InputError: for negative counts or sam_steps > steps.
    """

    steps: int = 100
    sam_steps: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be >= 1, got {self.steps}")
        if self.sam_steps is not None and not 0 <= self.sam_steps <= self.steps:
            raise InputError(f"sam_steps must be in 0..steps = {self.steps}, got {self.sam_steps}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be >= 1, got {self.batch_size}")

    @property
    def climbs(self) -> int:
        """Steps that are SAM's."""
        return self.steps if self.sam_steps is None else self.sam_steps


@dataclass(frozen=True)
class Trajectory:
    """Where training ended: W = W(0) + C V.

    Attributes:
        products: S = W V^T.
        coefficients: C.
    """

    products: Float[Tensor, "run 2m k"]
    coefficients: Float[Tensor, "run 2m k"]


def sample_weights(schedule: Schedule, n: int, seeds: list[int]) -> Callable[[int], Float[Tensor, "run n"] | None]:
    """Weight of each sample in the batch of a step (1/B inside, 0 outside); None for the full batch.

    Raises:
        InputError: if the batch is larger than n.
    """
    B = schedule.batch_size
    if B is None or n == B:
        return lambda step: None
    if n < B:
        raise InputError(f"batch_size must be in 1..n = {n}, got {B}")
    a_round = -(-n // B)
    epochs = -(-schedule.steps // a_round)
    rows = np.tile(np.arange(n), (epochs, 1))
    # a stream of its own, so that the data of a run do not depend on how it is trained
    orders = np.stack([np.random.default_rng([seed, 0x5A3]).permuted(rows, axis=1) for seed in seeds])

    def weights(step: int) -> Tensor:
        chosen = orders[:, step // a_round, step % a_round * B : (step % a_round + 1) * B]
        result = torch.zeros(len(seeds), n, dtype=torch.float64)
        return result.scatter_(1, torch.from_numpy(chosen), 1.0 / chosen.shape[1])

    return weights


def train(
    span: Span,
    schedule: Schedule,
    eta: Float[Tensor, "run"] | float,
    tau: Float[Tensor, "run"] | float = 0.0,
    batches: Callable[[int], Tensor | None] = lambda step: None,
    observe: Observer | None = None,
) -> Trajectory:
    """Run the schedule on every run of `span` at once, in O(run m k^2) a step, whatever d is.

    Args:
        span: the runs.
        schedule: steps and batches.
        eta: learning rate, of all runs or of each (in float64).
        tau: radius of SAM likewise; 0 is plain descent.
        batches: see `sample_weights`.
        observe: called with the state before each step, and after the last.
    """
    S, C = span.products.clone(), torch.zeros_like(span.products)
    gradient = _Gradient(span)
    eta, tau = (
        torch.as_tensor(value, dtype=S.dtype, device=S.device).expand(len(S))[:, None, None] for value in (eta, tau)
    )
    climbs = schedule.climbs if bool((tau > 0).any()) else 0
    for step in range(schedule.steps):
        weights = batches(step)
        weights = weights if weights is None else weights.to(S)
        c = gradient(S, weights)
        D = c @ span.gram
        perturbed = None
        if step < climbs:
            norm = torch.linalg.vecdot(c.flatten(1), D.flatten(1)).clamp_min_(0).sqrt_()[:, None, None]
            perturbed = S + torch.where(norm > 0, tau / norm, 0.0) * D
            c = gradient(perturbed, weights)
            D = c @ span.gram
        if observe is not None:
            observe(step, S, perturbed, C)
        S = S.addcmul_(eta, D, value=-1)
        C = C.addcmul_(eta, c, value=-1)
    if observe is not None:
        observe(schedule.steps, S, None, C)
    return Trajectory(S, C)


def outputs(span: Span, S: Float[Tensor, "run 2m k"]) -> tuple[Float[Tensor, "run n"], Float[Tensor, "run n"]]:
    """Signal and noise parts of y_i f(x_i)."""
    j, m = span.signs, span.m
    plus, minus = (torch.relu(side * S[..., 0]) @ j / m for side in (1, -1))
    signal = torch.where(span.clean > 0, plus[:, None], minus[:, None])
    noise = (j @ S[..., 1:].clamp_min(0)).unflatten(-1, (-1, span.noises)).sum(-1) * (span.copies / m)
    return span.y * signal, span.y * noise


class _Gradient:
    """C' of the gradient C' V at S; buffers are kept between calls."""

    def __init__(self, span: Span) -> None:
        self.span, self.j = span, span.signs[:, None]
        self.positive = span.clean > 0

    def __call__(self, S: Tensor, weights: Tensor | None) -> Tensor:
        span, m, n = self.span, self.span.m, self.span.y.shape[-1]
        signal, noise = outputs(span, S)
        v = span.y * torch.sigmoid(-(signal + noise)) * (-1.0 / m)  # y_i l'_i / m
        v = v / n if weights is None else v * weights
        on_plus = torch.where(self.positive, v, 0.0).sum(-1, keepdim=True)
        on_minus = v.sum(-1, keepdim=True) - on_plus
        c = torch.empty_like(S)
        torch.mul(S[..., 1:] > 0, (v * span.copies).repeat_interleave(span.noises, -1)[:, None], out=c[..., 1:])
        s = S[..., 0]
        c[..., 0] = torch.where(s > 0, on_plus, torch.where(s < 0, -on_minus, 0.0))
        return c.mul_(self.j)
