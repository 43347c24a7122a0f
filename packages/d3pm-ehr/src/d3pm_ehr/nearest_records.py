"""Nearest records in Hamming distance, |a| + |b| - 2 a.b, by blocked sparse or dense products instead of loops."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

BLOCK_ENTRIES = 2**25  # of one block's products: bounds the memory whatever the number of records


def nearest(queries: sparse.csr_matrix, reference: sparse.csr_matrix) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distance to the nearest reference record, and that record (the first of several), for every query.

    The sparse way costs the sum over codes of (queries with it) x (references with it), the dense one
    queries x references x codes; the cheaper one is taken. Both are exact.

    Args:
        queries: 0/1, [queries, codes].
        reference: 0/1, [references, codes].

    Raises:
        ValueError: if the tables differ in columns, or the reference is empty.
    """
    if queries.shape[1] != reference.shape[1] or not reference.shape[0]:
        raise ValueError(f"cannot compare tables of shape {queries.shape} and {reference.shape}")
    frequency = [np.bincount(table.indices, minlength=table.shape[1]).astype(float) for table in (queries, reference)]
    products = float(frequency[0] @ frequency[1])
    pairs = float(queries.shape[0]) * reference.shape[0]
    # measured: about 5 ns a sparse product; 1 ns a pair and 1 ns for 30 columns of it by BLAS
    way = _sparse if 5 * products < pairs * (1 + queries.shape[1] / 30) else _dense
    share = products if way is _sparse else pairs
    rows = max(1, int(BLOCK_ENTRIES / max(share / max(1, queries.shape[0]), 1)))
    found = [way(queries[start : start + rows], reference) for start in range(0, queries.shape[0], rows)]
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _sparse(queries: sparse.csr_matrix, reference: sparse.csr_matrix) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    sizes = np.diff(reference.indptr).astype(np.int32)
    shortest = int(sizes.argmin())
    overlap = sparse.csr_matrix(queries.astype(np.int32) @ reference.T.astype(np.int32).tocsr())
    cost = sizes[overlap.indices] - 2 * overlap.data
    best = np.full(queries.shape[0], sizes[shortest], np.int32)
    where = np.full(queries.shape[0], shortest, np.int64)
    full = np.flatnonzero(np.diff(overlap.indptr))
    if len(full):
        starts = overlap.indptr[full]
        low = np.minimum.reduceat(cost, starts)
        hits = np.flatnonzero(cost == np.repeat(low, np.diff(overlap.indptr)[full]))
        owner = np.searchsorted(starts, hits, side="right") - 1
        first = np.full(len(full), np.iinfo(np.int64).max)
        np.minimum.at(first, owner, overlap.indices[hits].astype(np.int64))
        better = (low < best[full]) | ((low == best[full]) & (first < where[full]))
        best[full[better]], where[full[better]] = low[better], first[better]
    return best + np.diff(queries.indptr).astype(np.int32), where


def _dense(queries: sparse.csr_matrix, reference: sparse.csr_matrix) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    a, b = queries.toarray().astype(np.float32), reference.toarray().astype(np.float32)
    cost = a @ (-2 * b.T)
    cost += np.diff(reference.indptr).astype(np.float32)
    where = cost.argmin(1)
    best = cost[np.arange(len(a)), where].astype(np.int32)
    return best + np.diff(queries.indptr).astype(np.int32), where.astype(np.int64)
