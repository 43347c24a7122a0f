"""The batch gradient on a CPU without a matrix product: sums of table rows, one row per four coordinates.

Both products of the gradient, Z = X W^T and G = H^T X, have a factor X of signs. For a group of four coordinates there
are only sixteen rows of signs, so <w, x> is a sum of one precomputed row per group, and the second product adds h to
one row per group and resolves the rows into coordinates once a batch (the method of four Russians). That is four times
fewer additions than multiplications in the products, and a batch is never stored beyond its packed bits.

Neurons do not interact under the correlation loss, so they are taken sixteen at a time (`parity_sgd.lanes`): both
tables of a tile fit the first-level cache up to d of about 90.
"""

from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from parity_sgd.compiling import compiled
from parity_sgd.lanes import LANES, fill, load, magnitude, store

FloatArray = npt.NDArray[np.float32]
ROWS_PER_FOLD = 16384
"""Rows summed in float32 before they are added to the float64 total."""
ROWS_PER_BLOCK = 256
"""Rows between two changes of the table in use; their powers take a third of a first-level cache."""
GROUP = 16 * LANES
"""Numbers in the table of one group: sixteen rows of signs, one number a neuron."""
LINE = 64 // 4
"""Numbers in a cache line."""


@compiled()
def take(W, order, first, count, tile):  # type: ignore[no-untyped-def]
    """tile[j, r] = W[order[first + r], j] for r < count; zero for neurons and coordinates that do not exist."""
    tile[:] = 0
    for r in range(count):
        row = W[order[first + r]]
        for j in range(row.shape[0]):
            tile[j * LANES + r] = row[j]


@compiled()
def put(tile, order, first, count, W):  # type: ignore[no-untyped-def]
    """W[order[first + r], j] = tile[j, r] for r < count."""
    for r in range(count):
        row = W[order[first + r]]
        for j in range(row.shape[0]):
            row[j] = tile[j * LANES + r]


@compiled()
def fill_table(tile, table):  # type: ignore[no-untyped-def]
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


@compiled()
def weigh(codes, weights, exponent, table, h, total):  # type: ignore[no-untyped-def]
    """h_i = weights_i <w, x_i>^exponent for every point, and total += |h_i|.

    <w_r, x_i> is a sum of one table row per half byte. The loop is not a function of its own: numba would count
    references to its arrays for every point, which takes longer than the sum.
    """
    groups = table.shape[0] // GROUP
    size = load(total, 0)
    for i in range(codes.shape[0]):
        low = fill(np.float32(0))
        high = fill(np.float32(0))
        for p in range(groups >> 1):
            byte, base = np.intp(codes[i, p]), 2 * p * GROUP
            low = low + load(table, base + (byte & 15) * LANES)
            high = high + load(table, base + GROUP + (byte >> 4) * LANES)
        if groups & 1:  # the last byte holds at most four coordinates
            low = low + load(table, (groups - 1) * GROUP + (np.intp(codes[i, groups >> 1]) & 15) * LANES)
        z, power = low + high, fill(weights[i])
        if exponent == 1:  # a loop over the exponent takes longer than the look-up where d is small
            power = power * z
        elif exponent == 2:
            power = power * z * z
        elif exponent == 3:
            power = power * z * z * z
        else:
            for _ in range(exponent):
                power = power * z
        store(h, i * LANES, power)
        size = size + magnitude(power)
    store(total, 0, size)


@compiled()
def scatter(codes, h, sums):  # type: ignore[no-untyped-def]
    """sums[g, row of x_i] += h_i for every point and group.

    A loop of its own, so that only one of the two tables has to stay in the first-level cache at a time.
    """
    groups = sums.shape[0] // GROUP
    for i in range(codes.shape[0]):
        power = load(h, i * LANES)
        for p in range(groups >> 1):
            byte, base = np.intp(codes[i, p]), 2 * p * GROUP
            low = base + (byte & 15) * LANES
            store(sums, low, load(sums, low) + power)
            high = base + GROUP + (byte >> 4) * LANES
            store(sums, high, load(sums, high) + power)
        if groups & 1:
            low = (groups - 1) * GROUP + (np.intp(codes[i, groups >> 1]) & 15) * LANES
            store(sums, low, load(sums, low) + power)


@compiled(inline="always")
def _halve(sums, start, half):  # type: ignore[no-untyped-def]
    """Sum of (row v - row v + half) over the first half; the first half becomes their sums, the second zero."""
    zero = fill(np.float32(0))
    even, odd = zero, zero
    for v in range(0, half, 2):
        at = start + v * LANES
        low, high = load(sums, at), load(sums, at + half * LANES)
        even = even + (low - high)
        store(sums, at, low + high)
        store(sums, at + half * LANES, zero)
        low, high = load(sums, at + LANES), load(sums, at + (half + 1) * LANES)
        odd = odd + (low - high)
        store(sums, at + LANES, low + high)
        store(sums, at + (half + 1) * LANES, zero)
    return even + odd


@compiled(inline="always")
def resolve(sums, start, found):  # type: ignore[no-untyped-def]
    """found[b] = sum_v sign_b(v) sums[v] for the four coordinates of the group at `start`, which is zero afterwards."""
    store(found, 3 * LANES, _halve(sums, start, 8))
    store(found, 2 * LANES, _halve(sums, start, 4))
    store(found, LANES, _halve(sums, start, 2))
    low, high = load(sums, start), load(sums, start + LANES)
    store(found, 0, low - high)
    store(sums, start, fill(np.float32(0)))
    store(sums, start + LANES, fill(np.float32(0)))


@compiled()
def _gradient_sum(codes, weights, W, exponent, order, tile, table, sums, h, found, G, total):  # type: ignore[no-untyped-def]
    """total[r, j] = sum_i weights_i <w_r, x_i>^exponent x_ij, blocks of points added in float64."""
    for first in range(0, W.shape[0], LANES):
        count = min(LANES, W.shape[0] - first)
        take(W, order, first, count, tile)
        fill_table(tile, table)
        G[:] = 0
        for start in range(0, codes.shape[0], ROWS_PER_FOLD):
            stop = min(start + ROWS_PER_FOLD, codes.shape[0])
            for block in range(start, stop, ROWS_PER_BLOCK):
                end = min(block + ROWS_PER_BLOCK, stop)
                weigh(codes[block:end], weights[block:end], exponent, table, h, found)
                scatter(codes[block:end], h, sums)
            for g in range(sums.shape[0] // GROUP):
                resolve(sums, g * GROUP, found)
                for j in range(4 * LANES):
                    G[4 * g * LANES + j] += found[j]
        put(G, order, first, count, total)


@compiled(fastmath={"reassoc"})  # a sum of sixteen numbers in the order that suits the registers
def _add_weighted(h, a, f):  # type: ignore[no-untyped-def]
    """f_i += sum_r a_r h[i, r] in float64."""
    for i in range(f.shape[0]):
        value = 0.0
        for r in range(LANES):
            value += a[r] * h[i * LANES + r]
        f[i] += value


@compiled()
def _values(codes, W, a, exponent, order, tile, table, ones, h, total, f):  # type: ignore[no-untyped-def]
    f[:] = 0
    for first in range(0, W.shape[0], LANES):
        take(W, order, first, min(LANES, W.shape[0] - first), tile)
        fill_table(tile, table)
        for start in range(0, codes.shape[0], ROWS_PER_BLOCK):
            stop = min(start + ROWS_PER_BLOCK, codes.shape[0])
            weigh(codes[start:stop], ones[: stop - start], exponent, table, h, total)
            _add_weighted(h, a[first : first + LANES], f[start:stop])


@compiled()
def label(codes, mask, y):  # type: ignore[no-untyped-def]
    """y_i = product of the coordinates that `mask` selects."""
    for i in range(codes.shape[0]):
        bits = np.uint8(0)
        for p in range(codes.shape[1]):
            if mask[p]:
                bits ^= codes[i, p] & mask[p]
        bits ^= bits >> 4
        y[i] = 1 - 2 * ((0x6996 >> (bits & 15)) & 1)  # bit b of 0x6996 is the parity of b


def parities(codes: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> FloatArray:
    """Product of the coordinates that `mask` (bytes,) selects, in {-1, +1}, of every packed point."""
    y = np.empty(len(codes), np.float32)
    label(codes, mask, y)
    return y


def aligned(*sizes: int) -> list[FloatArray]:
    """Zeroed arrays that begin on a cache line, for sizes in whole lines: a row across two of them costs twice."""
    block = np.zeros(sum(sizes) + LINE, np.float32)
    ends = [*accumulate(sizes, initial=-block.ctypes.data // block.itemsize % LINE)]
    return [block[start:end] for start, end in pairwise(ends)]


def padded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
    groups = -(-W.shape[1] // 4)
    sizes = (groups * 4 * LANES, groups * GROUP, groups * GROUP, ROWS_PER_BLOCK * LANES, 4 * LANES)
    tile, table, sums, h, found = aligned(*sizes)
    G, total, order = np.empty(tile.size, np.float64), np.empty(W.shape, np.float64), np.arange(len(W))
    _gradient_sum(codes, weights, W, exponent, order, tile, table, sums, h, found, G, total)
    return total


def network_values(
    codes: npt.NDArray[np.uint8], W: FloatArray, a: npt.NDArray[np.float64], exponent: int
) -> npt.NDArray[np.float64]:
    """f(x_i) = sum_r a_r <w_r, x_i>^exponent of packed points, summed over neurons in float64."""
    groups = -(-W.shape[1] // 4)
    tile, table, h, total = aligned(groups * 4 * LANES, groups * GROUP, ROWS_PER_BLOCK * LANES, LANES)
    f, ones = np.empty(len(codes), np.float64), np.ones(ROWS_PER_BLOCK, np.float32)
    _values(codes, W, padded(a), exponent, np.arange(len(W)), tile, table, ones, h, total, f)
    return f
