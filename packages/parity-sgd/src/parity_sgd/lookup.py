"""The batch gradient on a CPU without a matrix product: sums of table rows, one row per group of coordinates.

Both products of the gradient, Z = X W^T and G = H^T X, have a factor X of signs. For a group of `bits` coordinates
there are only 2^bits rows of signs, so <w, x> is a sum of one precomputed row per group, and the second product adds h
to one row per group and resolves the rows into coordinates once a batch (the method of four Russians). That is `bits`
times fewer additions than the product, and a batch is never stored beyond its packed bits.

Arrays are numpy, neurons are the last (contiguous) axis: Wt is (d, m).
"""

import numba
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ROWS_PER_FOLD = 16384
"""Rows summed in float32 before they are added to the float64 total."""


@numba.njit(nogil=True, cache=True)
def _fill_tables(Wt, tables, bits):  # type: ignore[no-untyped-def]
    """tables[g, v] = sum over the group's coordinates of sign_b(v) w: each entry is one subtraction from another."""
    d, m = Wt.shape
    for g in range(tables.shape[0]):
        for r in range(m):
            tables[g, 0, r] = 0
        for b in range(bits):
            if g * bits + b < d:
                for r in range(m):
                    tables[g, 0, r] += Wt[g * bits + b, r]
        for b in range(bits):
            j = g * bits + b
            for v in range(1 << b):
                if j < d:
                    for r in range(m):
                        tables[g, (1 << b) + v, r] = tables[g, v, r] - 2 * Wt[j, r]
                else:
                    for r in range(m):
                        tables[g, (1 << b) + v, r] = tables[g, v, r]


@numba.njit(nogil=True, cache=True)
def _inner_products(row, tables, z):  # type: ignore[no-untyped-def]
    """z_r = <w_r, x>: one table row per group, four at a time so that z is loaded and stored less often."""
    groups, m = row.shape[0], z.shape[0]
    for r in range(m):
        z[r] = 0
    g = 0
    while g + 4 <= groups:
        t0 = tables[g, row[g]]
        t1 = tables[g + 1, row[g + 1]]
        t2 = tables[g + 2, row[g + 2]]
        t3 = tables[g + 3, row[g + 3]]
        for r in range(m):
            z[r] += (t0[r] + t1[r]) + (t2[r] + t3[r])
        g += 4
    while g < groups:
        t0 = tables[g, row[g]]
        for r in range(m):
            z[r] += t0[r]
        g += 1


@numba.njit(nogil=True, cache=True)
def _power(z, weight, exponent):  # type: ignore[no-untyped-def]
    """z <- weight * z^exponent by repeated products."""
    m = z.shape[0]
    if exponent == 1:
        for r in range(m):
            z[r] = weight * z[r]
    elif exponent == 2:
        for r in range(m):
            z[r] = weight * (z[r] * z[r])
    elif exponent == 3:
        for r in range(m):
            z[r] = weight * (z[r] * z[r] * z[r])
    else:
        for r in range(m):
            product = weight
            for _ in range(exponent):
                product *= z[r]
            z[r] = product


@numba.njit(nogil=True, cache=True)
def _scatter(row, z, sums):  # type: ignore[no-untyped-def]
    """sums[g, row[g]] += z for every group."""
    groups, m = row.shape[0], z.shape[0]
    g = 0
    while g + 2 <= groups:
        s0 = sums[g, row[g]]
        s1 = sums[g + 1, row[g + 1]]
        for r in range(m):
            s0[r] += z[r]
            s1[r] += z[r]
        g += 2
    if g < groups:
        s0 = sums[g, row[g]]
        for r in range(m):
            s0[r] += z[r]


@numba.njit(nogil=True, cache=True)
def _fold(sums, Gt, bits, difference):  # type: ignore[no-untyped-def]
    """Gt[j] += sum_v sign_j(v) sums[g, v], halving the table once a coordinate; `sums` is zero again afterwards."""
    d, m = Gt.shape
    for g in range(sums.shape[0]):
        for b in range(bits - 1, -1, -1):
            j, half = g * bits + b, 1 << b
            for r in range(m):
                difference[r] = 0
            for v in range(half):
                low, high = sums[g, v], sums[g, half + v]
                for r in range(m):
                    difference[r] += low[r] - high[r]
                for r in range(m):
                    low[r] += high[r]
                    high[r] = 0
            if j < d:
                for r in range(m):
                    Gt[j, r] += difference[r]
        for r in range(m):
            sums[g, 0, r] = 0


@numba.njit(nogil=True, cache=True)
def _split(codes, bits, row):  # type: ignore[no-untyped-def]
    """One packed point as group indices: bytes, or low and high halves of bytes."""
    for p in range(codes.shape[0]):
        if bits == 8:
            row[p] = codes[p]
        else:
            row[2 * p] = codes[p] & 15
            row[2 * p + 1] = codes[p] >> 4


@numba.njit(nogil=True, cache=True)
def _accumulate(codes, weights, exponent, bits, tables, sums, z, row, Gt):  # type: ignore[no-untyped-def]
    pending = 0
    for i in range(codes.shape[0]):
        if weights[i] == 0:
            continue
        _split(codes[i], bits, row)
        _inner_products(row, tables, z)
        _power(z, weights[i], exponent)
        _scatter(row, z, sums)
        pending += 1
        if pending == ROWS_PER_FOLD:
            _fold(sums, Gt, bits, z)
            pending = 0
    if pending:
        _fold(sums, Gt, bits, z)


@numba.njit(nogil=True, cache=True)
def _update(Wt, Gt, scale, keep, eta, rho):  # type: ignore[no-untyped-def]
    """w <- keep * w + eta * st(scale * G): the thresholded sign step of one network."""
    for j in range(Wt.shape[0]):
        for r in range(Wt.shape[1]):
            gradient = Gt[j, r] * scale[r]
            w = Wt[j, r] * keep
            if gradient >= rho:
                w += eta
            elif gradient <= -rho:
                w -= eta
            Wt[j, r] = w


@numba.njit(nogil=True, cache=True)
def _gradient_sum(codes, weights, Wt, exponent, bits, tables, sums, Gt):  # type: ignore[no-untyped-def]
    z = np.empty(Wt.shape[1], np.float32)
    row = np.empty(tables.shape[0], np.uint8)
    _fill_tables(Wt, tables, bits)
    _accumulate(codes, weights, exponent, bits, tables, sums, z, row, Gt)


@numba.njit(nogil=True, cache=True)
def _sign_steps(codes, weights, Wt, scale, exponent, keep, eta, rho, bits, tables, sums):  # type: ignore[no-untyped-def]
    """As many steps as codes has batches; nothing of Python runs in between."""
    Gt = np.empty(Wt.shape, np.float64)
    for t in range(codes.shape[0]):
        Gt[:] = 0
        _gradient_sum(codes[t], weights[t], Wt, exponent, bits, tables, sums, Gt)
        _update(Wt, Gt, scale, keep, eta, rho)


@numba.njit(nogil=True, cache=True)
def _values(codes, Wt, a, exponent, bits, tables, f):  # type: ignore[no-untyped-def]
    z = np.empty(Wt.shape[1], np.float32)
    row = np.empty(tables.shape[0], np.uint8)
    _fill_tables(Wt, tables, bits)
    for i in range(codes.shape[0]):
        _split(codes[i], bits, row)
        _inner_products(row, tables, z)
        _power(z, np.float32(1), exponent)
        total = 0.0
        for r in range(z.shape[0]):
            total += a[r] * z[r]
        f[i] = total


def _workspace(rows: int, byte_count: int, m: int) -> tuple[int, FloatArray, FloatArray]:
    """Group width, tables and sums: a byte table pays off only where many rows share the cost of filling it."""
    bits = 8 if rows >= 512 else 4
    shape = (byte_count * 8 // bits, 2**bits, m)
    return bits, np.empty(shape, np.float32), np.zeros(shape, np.float32)


def gradient_sum(
    codes: npt.NDArray[np.uint8], weights: FloatArray, Wt: FloatArray, exponent: int
) -> npt.NDArray[np.float64]:
    """sum_i weights_i <w_r, x_i>^exponent x_i for every neuron r, as (d, m) in float64.

    Args:
        codes: (n, bytes) packed points.
        weights: (n,) label times multiplicity of each point; a zero skips the point.
        Wt: (d, m) weights, neurons contiguous.
        exponent: k - 1.
    """
    bits, tables, sums = _workspace(len(codes), codes.shape[1], Wt.shape[1])
    Gt = np.zeros(Wt.shape, np.float64)
    _gradient_sum(codes, weights, Wt, exponent, bits, tables, sums, Gt)
    return Gt


def sign_steps(
    codes: npt.NDArray[np.uint8],
    weights: FloatArray,
    Wt: FloatArray,
    scale: npt.NDArray[np.float64],
    *,
    exponent: int,
    eta: float,
    decay: float,
    rho: float,
) -> None:
    """Run one thresholded sign step per batch on Wt (d, m), in place.

    Args:
        codes: (steps, n, bytes) packed points, one fresh batch a step.
        weights: (steps, n) labels.
        Wt: (d, m) weights, updated in place.
        scale: (m,) a_r k / B, from the sum over the batch to minus the loss gradient.
        exponent: k - 1.
        eta: learning rate.
        decay: lambda, applied outside the sign.
        rho: threshold of the mean gradient.
    """
    bits, tables, sums = _workspace(codes.shape[1], codes.shape[2], Wt.shape[1])
    _sign_steps(
        codes, weights, Wt, scale, exponent, np.float32(1 - decay * eta), np.float32(eta), rho, bits, tables, sums
    )


def network_values(
    codes: npt.NDArray[np.uint8], Wt: FloatArray, a: npt.NDArray[np.float64], exponent: int
) -> npt.NDArray[np.float64]:
    """f(x_i) = sum_r a_r <w_r, x_i>^exponent of packed points, summed over neurons in float64."""
    bits, tables, _ = _workspace(len(codes), codes.shape[1], Wt.shape[1])
    f = np.empty(len(codes), np.float64)
    _values(codes, Wt, a, exponent, bits, tables, f)
    return f
