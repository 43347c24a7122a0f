"""Two inner loops whose cost in Python is call overhead, compiled by numba: the Chebyshev series, and Gillespie clocks.

Only used on a CPU and where there is enough work to pay for loading numba; the same results come without them.
"""

import numpy as np
from numba import njit

# a row of this many neighbouring states is contiguous in every pass over an axis
SHORTEST_ROW = 8


def low_axes(S: int, d: int) -> int:
    """How many of the last axes are taken together, by a small dense matrix."""
    axes = 1
    while axes < d and S**axes < SHORTEST_ROW:
        axes += 1
    return axes


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _three_term(
    S: int, axes: int, low: np.ndarray, share: float, diagonal: np.ndarray, v: np.ndarray, out: np.ndarray
) -> None:
    """out <- (S share A + diagonal) v - out, A the adjacency over S; `low` is S share A of the last axes."""
    size, width = v.size, low.shape[0]
    for row in range(size // width):
        base = row * width
        for j in range(width):
            out[base + j] = diagonal[base + j] * v[base + j] - out[base + j]
        for k in range(width):
            value = v[base + k]
            for j in range(width):
                out[base + j] += value * low[k, j]
    stride, single = width, axes
    if S == 2:  # two axes in one pass: fewer loads and stores
        single = axes % 2
        for _ in range(axes // 2):
            span = stride * 4
            for group in range(size // span):
                base = group * span
                for a in range(4):
                    here, first, second = base + a * stride, base + (a ^ 1) * stride, base + (a ^ 2) * stride
                    for j in range(stride):
                        out[here + j] += share * (v[first + j] + v[second + j])
            stride = span
    for _ in range(single):  # a counted loop: with `while stride < size` the passes are not vectorised
        span = stride * S
        for group in range(size // span):
            for a in range(S):
                for b in range(S):
                    if a != b:
                        here, there = group * span + a * stride, group * span + b * stride
                        for j in range(stride):
                            out[here + j] += share * v[there + j]
        stride = span


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def chebyshev_sum(
    S: int,
    axes: int,
    low: np.ndarray,
    share: float,
    diagonal: np.ndarray,
    start: np.ndarray,
    coefficients: np.ndarray,
) -> np.ndarray:
    """sum_k coefficients[k] T_k(M) start, with 2 M = S share A + diagonal.

    Args:
        S: values of a token.
        axes: how many are not in `low`.
        low: S share A of the last axes, (width, width).
        share: factor of each neighbour.
        diagonal: (n,).
        start: (n,).
        coefficients: of T_0, T_1, ...
    """
    before, now = np.zeros_like(start), start.copy()
    total = coefficients[0] * start
    for k in range(1, len(coefficients)):
        _three_term(S, axes, low, share, diagonal, now, before)
        before, now = now, before
        if k == 1:  # T_1 = M T_0, without the factor 2 of the later ones
            now *= 0.5
        coefficient = coefficients[k]
        for j in range(now.size):
            total[j] += coefficient * now[j]
    return total


@njit(cache=True, error_model="numpy")
def run_clocks(seed: int, state: np.ndarray, clock: np.ndarray, ends: np.ndarray, dst: np.ndarray, h: float) -> int:
    """Advance every sample by h with rates frozen, in place; returns the jumps.

    Args:
        seed: of this interval's draws.
        state: state numbers (n,).
        clock: unspent unit exponentials (n,).
        ends: cumulative rates of each state's moves (states, moves).
        dst: where each move leads (states, moves).
        h: length of the interval.
    """
    np.random.seed(seed)  # noqa: NPY002 - numba's own generator, seeded from torch's
    jumps, moves = 0, ends.shape[1]
    for sample in range(state.size):
        x, unspent, left = state[sample], clock[sample], h
        while True:
            rate = ends[x, moves - 1]
            if unspent >= rate * left:
                unspent -= rate * left
                break
            left -= unspent / rate
            u = np.random.random() * rate  # noqa: NPY002
            move = 0
            while move < moves - 1 and ends[x, move] <= u:
                move += 1
            x = dst[x, move]
            unspent = np.random.standard_exponential()  # noqa: NPY002
            jumps += 1
        state[sample], clock[sample] = x, unspent
    return jumps
