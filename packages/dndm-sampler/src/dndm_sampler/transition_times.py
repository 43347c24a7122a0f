"""Predetermined transition times: when each position moves from noise to data.

A time tensor `tau` is positive at free positions and 0 at fixed ones. On T steps the times are 1..T; continuous times
are in (0, 1). Everything here works on both.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler.schedule import TransitionSchedule, check_alphas

Order = Literal["random", "left_to_right", "right_to_left"]


def transition_times(
    alphas: Float[Tensor, "steps_plus_1"], shape: tuple[int, int], generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """Draw the step at which each position moves from noise to data (the transition time of the paper).

    P(tau = t) = alphas[t - 1] - alphas[t] for t = 1..T, independently for every position.

    Args:
        alphas: survival probability of the data after each step, alphas[0] = 1 down to alphas[T] = 0.
        shape: (batch, positions) of the tokens to be sampled.
        generator: source of the draws.

    Raises:
        InputError: if `alphas` is not non-increasing from 1 to 0.
    """
    check_alphas(alphas)
    return discrete_times(alphas, torch.rand(shape, generator=generator, dtype=torch.float64))


def discrete_times(
    alphas: Float[Tensor, "steps_plus_1"], uniforms: Float[Tensor, "batch position"]
) -> Int[Tensor, "batch position"]:
    """The inverse of the distribution function 1 - alpha_t at each uniform: 1..T."""
    cdf = (1 - alphas[1:]).to(uniforms)
    return (torch.searchsorted(cdf, uniforms.contiguous(), right=True) + 1).clamp(max=len(cdf))


def continuous_times(
    schedule: TransitionSchedule, uniforms: Float[Tensor, "batch position"]
) -> Float[Tensor, "batch position"]:
    """Times in (0, 1) with density -alpha'(u) (DNDM-C)."""
    tiny = torch.finfo(uniforms.dtype).tiny
    return schedule.quantile(uniforms).clamp(min=tiny, max=1.0)


def balanced_times(
    schedule: TransitionSchedule,
    num_calls: int,
    free: Bool[Tensor, "batch position"],
    uniforms: Float[Tensor, "batch position_plus_1"],
) -> Float[Tensor, "batch position"]:
    """Exactly `num_calls` times a row, in random groups whose sizes differ by at most one (ours, not the paper's).

    Group j of a row moves at the quantile (j + V)/K of the schedule's law, with one uniform V a row; a position is
    equally likely to be in each group, so every single tau keeps its law. Balanced groups put the fewest pairs of
    positions into one call: N(N/K - 1)/2 against N(N-1)/(2K) for independent times.

    Args:
        schedule: law of the times.
        num_calls: K >= 1; a row with fewer free positions gets one call for each.
        free: positions that get a time.
        uniforms: one a position for the random groups, and a last column for V.
    """
    rank = torch.where(free, uniforms[:, :-1], 2.0).argsort(dim=1).argsort(dim=1)  # free positions get 0..n-1
    count = free.sum(1, keepdim=True)
    groups = count.clamp(max=num_calls)
    # Rotating the ranks by a random amount lets every group be the larger one equally often.
    turn = (uniforms[:, -1:] * 2**26 % 1 * groups).long()
    group = (rank + turn) % groups.clamp(min=1)
    return continuous_times(schedule, (group + uniforms[:, -1:]) / groups.clamp(min=1)) * free


def in_order(tau: Num[Tensor, "batch position"], order: Order) -> Num[Tensor, "batch position"]:
    """Sort the times of the free positions so that they are restored in the given order.

    Restoration goes from large times to small ones: left to right gives the leftmost free position the largest time.
    Independent times are a random order already.
    """
    if order == "random":
        return tau
    free = tau > 0
    falling = tau.sort(dim=1, descending=True).values
    rank = free.cumsum(1) - 1
    if order == "right_to_left":
        rank = free.sum(1, keepdim=True) - 1 - rank
    return torch.where(free, falling.gather(1, rank.clamp(min=0)), tau)


class Turn(NamedTuple):
    """One network call: the first `rows` rows, each at its own time, and the positions that move there.

    Args:
        rows: number of rows that are called; rows are in the order of `busiest_first`.
        t: time of each of these rows.
        row: row of each moving position.
        position: its place in the row.
    """

    rows: int
    t: Num[Tensor, "rows"]
    row: Int[Tensor, "moving"]
    position: Int[Tensor, "moving"]


def count_times(tau: Num[Tensor, "batch position"]) -> Int[Tensor, "batch"]:
    """|T_b|: distinct transition times of each row, which is the number of calls the row needs."""
    falling = tau.sort(dim=1, descending=True).values
    return (_starts_group(falling) & (falling > 0)).sum(1)


def busiest_first(counts: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """Row order by falling number of calls: the rows of every call are then a slice, and finished rows drop off."""
    return counts.argsort(descending=True, stable=True)


def turns(tau: Num[Tensor, "batch position"]) -> Iterator[Turn]:
    """Yield the network calls: at turn k every unfinished row stands at its own k-th largest distinct time.

    The number of turns is the largest |T_b|, and their rows add up to sum_b |T_b|: no row is evaluated at a time that
    it does not have. `tau` must be in the order of `busiest_first`.
    """
    falling, place = tau.sort(dim=1, descending=True, stable=True)
    free = falling > 0
    turn_of = _starts_group(falling).cumsum(1) - 1
    row, column = free.nonzero(as_tuple=True)
    turn = turn_of[row, column]
    by_turn = turn.argsort(stable=True)
    row, column = row[by_turn], column[by_turn]
    position, time = place[row, column], falling[row, column]
    # the only transfer to the host: after it, everything a turn needs is a slice
    sizes = torch.bincount(turn).tolist() if len(turn) else []
    first = torch.ones_like(row, dtype=torch.bool)  # first position of its (turn, row): carries the row's time
    first[1:] = (row[1:] != row[:-1]) | (turn[by_turn][1:] != turn[by_turn][:-1])
    times = time[first]
    rows_of_turn = torch.bincount(turn[by_turn][first]).tolist() if len(turn) else []
    start = row_start = 0
    for size, rows in zip(sizes, rows_of_turn, strict=True):
        here = slice(start, start + size)
        yield Turn(rows, times[row_start : row_start + rows], row[here], position[here])
        start += size
        row_start += rows


def event_turns(events: Bool[Tensor, "batch steps"]) -> Iterator[tuple[int, Int[Tensor, "rows"]]]:
    """As `turns`, for rows whose times are given as a table: row b stands at step t where events[b, t - 1]."""
    steps = torch.arange(1, events.shape[1] + 1, device=events.device)
    times = (events * steps).sort(dim=1, descending=True).values
    for turn, rows in enumerate((times > 0).sum(0).tolist()):
        if rows == 0:
            return
        yield rows, times[:rows, turn]


def _starts_group(falling: Num[Tensor, "batch position"]) -> Bool[Tensor, "batch position"]:
    starts = torch.ones_like(falling, dtype=torch.bool)
    starts[:, 1:] = falling[:, 1:] != falling[:, :-1]
    return starts


def check_order(order: str, top_k: bool) -> None:
    """Refuse an order together with top-k, which chooses the positions itself.

    Raises:
        InputError: naming both arguments.
    """
    if order not in ("random", "left_to_right", "right_to_left"):
        raise InputError(f"order must be random, left_to_right or right_to_left, got {order!r}")
    if top_k and order != "random":
        raise InputError(f"top_k chooses the positions by score, which contradicts order={order!r}; use order='random'")
