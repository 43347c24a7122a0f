"""The batch gradient on a CPU without a matrix product: sums of table rows, one row per four coordinates.

Both products of the gradient, Z = X W^T and G = H^T X, have a factor X of signs. For a group of four coordinates there
are only sixteen rows of signs, so <w, x> is a sum of one precomputed row per group, and the second product adds h to
one row per group and resolves the rows into coordinates once a batch (the method of four Russians). That is four times
fewer additions than multiplications in the products, and a batch is never stored beyond its packed bits.

Neurons do not interact under the correlation loss, so they are taken sixteen at a time (`parity_sgd.lanes`): both
tables of a tile fit the first-level cache up to d of about 90.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from parity_sgd.lanes import LANES, fill, load, store

FloatArray = npt.NDArray[np.float32]
ROWS_PER_FOLD = 16384
"""Rows summed in float32 before they are added to the float64 total."""
GROUP = 16 * LANES
"""Numbers in the table of one group: sixteen rows of signs, one number a neuron."""
LINE = 64 // 4
"""Numbers in a cache line."""


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's compiler, keeping what it compiled where any folder for that can be written (not so in some images)."""

    def compile_later(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba's word for: no folder
            return numba.njit(nogil=True, **options)(function)

    return compile_later


@_compiled()
def _take(W, first, tile):  # type: ignore[no-untyped-def]
    """tile[j, r] = W[first + r, j]; zero for neurons and coordinates that do not exist."""
    tile[:] = 0
    for r in range(min(LANES, W.shape[0] - first)):
        for j in range(W.shape[1]):
            tile[j * LANES + r] = W[first + r, j]


@_compiled()
def _put(tile, first, W):  # type: ignore[no-untyped-def]
    for r in range(min(LANES, W.shape[0] - first)):
        for j in range(W.shape[1]):
            W[first + r, j] = tile[j * LANES + r]


@_compiled()
def _fill_table(tile, table):  # type: ignore[no-untyped-def]
    """table[g, v] = sum over the group's coordinates of sign_b(v) w: each row is one subtraction from another."""
    for g in range(table.shape[0] // GROUP):
        base, w = g * GROUP, g * 4 * LANES
        first = load(tile, w) + load(tile, w + LANES)
        store(table, base, first + (load(tile, w + 2 * LANES) + load(tile, w + 3 * LANES)))
        for b in range(4):
            weight = load(tile, w + b * LANES)
            for v in range(1 << b):
                row = load(table, base + v * LANES)
                store(table, base + ((1 << b) + v) * LANES, row - (weight + weight))


@_compiled(inline="always")
def _inner_products(point, table):  # type: ignore[no-untyped-def]
    """<w_r, x> of the sixteen neurons: one table row per half byte of the packed point x."""
    low = fill(np.float32(0))
    high = fill(np.float32(0))
    for p in range(point.shape[0]):
        byte, base = np.intp(point[p]), 2 * p * GROUP
        low = low + load(table, base + (byte & 15) * LANES)
        high = high + load(table, base + GROUP + (byte >> 4) * LANES)
    return low + high


@_compiled()
def _accumulate(codes, weights, exponent, table, sums):  # type: ignore[no-untyped-def]
    """sums[g, row of x_i] += weights_i <w, x_i>^exponent for every point and group."""
    for i in range(codes.shape[0]):
        if weights[i] == 0:
            continue
        z = _inner_products(codes[i], table)
        h = fill(weights[i])
        for _ in range(exponent):
            h = h * z
        for p in range(codes.shape[1]):
            byte, base = np.intp(codes[i, p]), 2 * p * GROUP
            low = base + (byte & 15) * LANES
            store(sums, low, load(sums, low) + h)
            high = base + GROUP + (byte >> 4) * LANES
            store(sums, high, load(sums, high) + h)


@_compiled()
def _fold(sums, difference, G):  # type: ignore[no-untyped-def]
    """G[j] += sum_v sign_j(v) sums[g, v], halving the table once a coordinate; `sums` is zero again afterwards."""
    zero = fill(np.float32(0))
    for g in range(sums.shape[0] // GROUP):
        base = g * GROUP
        for b in range(3, -1, -1):
            half = LANES << b
            found = zero
            for v in range(base, base + half, LANES):
                low, high = load(sums, v), load(sums, v + half)
                found = found + (low - high)
                store(sums, v, low + high)
                store(sums, v + half, zero)
            store(difference, 0, found)
            for r in range(LANES):
                G[(4 * g + b) * LANES + r] += difference[r]
        store(sums, base, zero)


@_compiled()
def _tile_gradient(codes, weights, exponent, tile, table, sums, difference, G):  # type: ignore[no-untyped-def]
    """G[j, r] = sum_i weights_i <w_r, x_i>^exponent x_ij of the sixteen neurons in `tile`."""
    G[:] = 0
    _fill_table(tile, table)
    for start in range(0, codes.shape[0], ROWS_PER_FOLD):
        stop = start + ROWS_PER_FOLD
        _accumulate(codes[start:stop], weights[start:stop], exponent, table, sums)
        _fold(sums, difference, G)


@_compiled()
def _update(tile, G, scale, keep, eta, rho):  # type: ignore[no-untyped-def]
    """w <- keep * w + eta * st(scale * G): the thresholded sign step of sixteen neurons."""
    for j in range(0, tile.shape[0], LANES):
        for r in range(LANES):
            gradient = G[j + r] * scale[r]
            sign = np.float32(gradient >= rho) - np.float32(gradient <= -rho)  # no branch: vectorised
            tile[j + r] = tile[j + r] * keep + eta * sign


@_compiled()
def _gradient_sum(codes, weights, W, exponent, tile, table, sums, difference, G, total):  # type: ignore[no-untyped-def]
    for first in range(0, W.shape[0], LANES):
        _take(W, first, tile)
        _tile_gradient(codes, weights, exponent, tile, table, sums, difference, G)
        _put(G, first, total)


@_compiled()
def _sign_steps(codes, weights, W, scale, exponent, keep, eta, rho, tile, table, sums, difference, G):  # type: ignore[no-untyped-def]
    """As many steps as codes has batches, for one tile of neurons after the other."""
    for first in range(0, W.shape[0], LANES):
        _take(W, first, tile)
        for t in range(codes.shape[0]):
            _tile_gradient(codes[t], weights[t], exponent, tile, table, sums, difference, G)
            # only coordinates that exist: spare bits of the last byte are random, their weights have to stay 0
            _update(tile[: W.shape[1] * LANES], G, scale[first : first + LANES], keep, eta, rho)
        _put(tile, first, W)


@_compiled()
def _values(codes, W, a, exponent, tile, tables, products, f):  # type: ignore[no-untyped-def]
    for t in range(tables.shape[0]):
        _take(W, t * LANES, tile)
        _fill_table(tile, tables[t])
    lanes = np.zeros(LANES, np.float64)
    for i in range(codes.shape[0]):
        lanes[:] = 0
        for t in range(tables.shape[0]):
            z = _inner_products(codes[i], tables[t])
            power = fill(np.float32(1))
            for _ in range(exponent):
                power = power * z
            store(products, 0, power)
            for r in range(LANES):
                lanes[r] += a[t * LANES + r] * products[r]
        f[i] = lanes.sum()


@_compiled()
def _parities(codes, mask, y):  # type: ignore[no-untyped-def]
    for i in range(codes.shape[0]):
        bits = np.uint8(0)
        for p in range(codes.shape[1]):
            bits ^= codes[i, p] & mask[p]
        bits ^= bits >> 4
        y[i] = 1 - 2 * ((0x6996 >> (bits & 15)) & 1)  # bit b of 0x6996 is the parity of b


def parities(codes: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> FloatArray:
    """Product of the coordinates that `mask` (bytes,) selects, in {-1, +1}, of every packed point."""
    y = np.empty(len(codes), np.float32)
    _parities(codes, mask, y)
    return y


def _aligned(*sizes: int) -> list[FloatArray]:
    """Zeroed arrays that begin on a cache line, for sizes in whole lines: a row across two of them costs twice."""
    block = np.zeros(sum(sizes) + LINE, np.float32)
    start = -block.ctypes.data // block.itemsize % LINE
    return np.split(block[start : start + sum(sizes)], np.cumsum(sizes)[:-1])


def _padded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`values` with zeros up to a whole number of tiles."""
    return np.append(values, np.zeros(-len(values) % LANES))


def gradient_sum(
    codes: npt.NDArray[np.uint8], weights: FloatArray, W: FloatArray, exponent: int
) -> npt.NDArray[np.float64]:
    """sum_i weights_i <w_r, x_i>^exponent x_i for every neuron r, as (m, d) in float64.

    Args:
        codes: (n, bytes) packed points.
        weights: (n,) label times multiplicity of each point; a zero skips the point.
        W: (m, d) weights.
        exponent: k - 1.
    """
    rows, coordinates = codes.shape[1] * 2 * GROUP, codes.shape[1] * 8 * LANES
    tile, table, sums, difference = _aligned(coordinates, rows, rows, LANES)
    G, total = np.empty(coordinates, np.float64), np.empty(W.shape, np.float64)
    _gradient_sum(codes, weights, W, exponent, tile, table, sums, difference, G, total)
    return total


def sign_steps(
    codes: npt.NDArray[np.uint8],
    weights: FloatArray,
    W: FloatArray,
    scale: npt.NDArray[np.float64],
    *,
    exponent: int,
    eta: float,
    decay: float,
    rho: float,
) -> None:
    """Run one thresholded sign step per batch on W (m, d), in place.

    Args:
        codes: (steps, n, bytes) packed points, one fresh batch a step.
        weights: (steps, n) labels.
        W: (m, d) weights, updated in place.
        scale: (m,) a_r k / B, from the sum over the batch to minus the loss gradient.
        exponent: k - 1.
        eta: learning rate.
        decay: lambda, applied outside the sign.
        rho: threshold of the mean gradient.
    """
    rows, coordinates = codes.shape[2] * 2 * GROUP, codes.shape[2] * 8 * LANES
    tile, table, sums, difference = _aligned(coordinates, rows, rows, LANES)
    G, keep = np.empty(coordinates, np.float64), np.float32(1 - decay * eta)
    _sign_steps(
        codes, weights, W, _padded(scale), exponent, keep, np.float32(eta), rho, tile, table, sums, difference, G
    )


def network_values(
    codes: npt.NDArray[np.uint8], W: FloatArray, a: npt.NDArray[np.float64], exponent: int
) -> npt.NDArray[np.float64]:
    """f(x_i) = sum_r a_r <w_r, x_i>^exponent of packed points, summed over neurons in float64."""
    tiles, table = -(-W.shape[0] // LANES), codes.shape[1] * 2 * GROUP
    tile, tables, products = _aligned(codes.shape[1] * 8 * LANES, tiles * table, LANES)
    f = np.empty(len(codes), np.float64)
    _values(codes, W, _padded(a), exponent, tile, tables.reshape(tiles, table), products, f)
    return f
