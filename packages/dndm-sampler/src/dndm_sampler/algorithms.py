"""The paper's sampling algorithms, one short function each.

Each takes `predict` (one network call on the first rows of the batch: tokens and scores drawn at the asked positions),
the initial noise `x`, and the predetermined times `tau` [batch, length], 0 at fixed positions, with the rows that need
most calls first (`busiest_first`). At every turn the unfinished rows stand at their own next time, so a row is
evaluated exactly at its distinct transition times. Discrete and continuous times (DNDM-C) share the code.
All return the sequences and log p of every token at its writing.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from dndm_sampler.denoising import Drawn
from dndm_sampler.transition_times import turns

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Drawn]
OnCall = Callable[[int, Tensor, Tensor], Any]
Sample = tuple[Int[Tensor, "batch length"], Float[Tensor, "batch length"]]


def ignore(rows: int, t: Tensor, x: Tensor) -> None:
    """The callback that does nothing."""


def dndm(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    tau: Num[Tensor, "batch length"],
    on_call: OnCall = ignore,
) -> Sample:
    """Algorithm 1 (DNDM; with continuous times DNDM-C): position n is written once, at its transition time tau_n."""
    x, scores = x.clone(), no_scores(x)
    for rows, t, row, position in turns(tau):  # (row, position): where tau = t
        drawn = predict(x[:rows], t, row, position)
        x[row, position] = drawn.tokens
        scores[row, position] = drawn.scores
        on_call(rows, t, x)
    return x, scores


def dndm_refresh(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    tau: Num[Tensor, "batch length"],
    on_call: OnCall = ignore,
) -> Sample:
    """Version 2: at time t every position with tau_n >= t is written (again). The same calls as Algorithm 1.

    Restored tokens are redrawn given a cleaner sequence, which sharpens the samples: their likelihood rises above the
    data's and their diversity falls.
    """
    x, scores = x.clone(), no_scores(x)
    for rows, t, _, _ in turns(tau):
        row, position = (tau[:rows] >= t[:, None]).nonzero(as_tuple=True)
        drawn = predict(x[:rows], t, row, position)
        x[row, position] = drawn.tokens
        scores[row, position] = drawn.scores
        on_call(rows, t, x)
    return x, scores


def dndm_topk(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    tau: Num[Tensor, "batch length"],
    on_call: OnCall = ignore,
) -> Sample:
    """DNDM-k: the times say how many positions are restored, the scores say which.

    After the call at t exactly K_t = #{n : tau_n >= t} positions are restored: the best-scoring ones among those that
    were not. (Choosing the best K_t of all positions instead can leave some unwritten for ever.)
    """
    x, scores = x.clone(), no_scores(x)
    waiting = tau > 0
    for rows, t, row, position in turns(tau):
        number = torch.bincount(row, minlength=rows)  # as many as have tau = t
        row, position = waiting[:rows].nonzero(as_tuple=True)
        drawn = predict(x[:rows], t, row, position)
        chosen = best(spread(drawn.scores, row, position, x[:rows]), number)[row, position]
        row, position = row[chosen], position[chosen]
        x[row, position] = drawn.tokens[chosen]
        scores[row, position] = drawn.scores[chosen]
        waiting[row, position] = False
        on_call(rows, t, x)
    return x, scores


def dndm_topk_remask(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    tau: Num[Tensor, "batch length"],
    on_call: OnCall = ignore,
    *,
    to_noise: bool = True,
) -> Sample:
    """DNDM-k as released: at every call all free positions compete anew for the K_t places.

    A restored position that is no longer among the best waits again: it returns to its noise (`to_noise`, as released
    for absorbing noise, Mask-Predict style) or shows its token until it is written anew (multinomial noise). One that
    stays keeps its token. Ties and near-certain scores are ranked, so exactly K_t positions are restored after a call.
    """
    noise, x, scores = x, x.clone(), no_scores(x)
    restored = torch.zeros_like(tau, dtype=torch.bool)
    for rows, t, _, _ in turns(tau):
        row, position = (tau[:rows] > 0).nonzero(as_tuple=True)
        drawn = predict(x[:rows], t, row, position)
        number = (tau[:rows] >= t[:, None]).sum(1)
        chosen = best(spread(drawn.scores, row, position, x[:rows]), number)[row, position]
        was = restored[row, position]
        token = torch.where(chosen & ~was, drawn.tokens, x[row, position])
        x[row, position] = torch.where(was & ~chosen & to_noise, noise[row, position], token)
        scores[row, position] = torch.where(chosen, drawn.scores, 0.0)
        restored[row, position] = chosen
        on_call(rows, t, x)
    return x, scores


def best(scores: Float[Tensor, "rows length"], number: Int[Tensor, "rows"]) -> Bool[Tensor, "rows length"]:
    """The `number` largest scores of each row, by rank: ties never select one too many or too few."""
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < number[:, None]


def spread(
    values: Float[Tensor, "asked"], row: Int[Tensor, "asked"], position: Int[Tensor, "asked"], like: Tensor
) -> Float[Tensor, "rows length"]:
    """The values at their places in a table of the shape of `like`, -inf elsewhere."""
    table = torch.full(like.shape, -torch.inf, dtype=values.dtype, device=values.device)
    table[row, position] = values
    return table


def no_scores(x: Tensor) -> Tensor:
    """A table of zeros for the scores: float64, float32 on MPS."""
    return torch.zeros(x.shape, dtype=torch.float32 if x.device.type == "mps" else torch.float64, device=x.device)
