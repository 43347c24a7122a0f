"""Distance of every record to the nearest synthetic one: sparse products beside a loop over Python sets."""

import numpy as np
from d3pm_ehr import embedded_cohort, nearest
from peers import set_loop
from scipy import sparse
from shared_core.benchmark import Comparison, compare, seconds

QUERIES = 40  # of the loop, whose time is linear in them


def widened(rows: int, seed: int, codes: int) -> sparse.csr_matrix:
    """Records of the embedded law; beyond its 256 codes the rarest half is spread over more columns."""
    table = embedded_cohort(rows, seed, min(codes, 256), columns=False).codes.tocoo()
    if codes <= 256:
        return table.tocsr()
    rng = np.random.default_rng(seed)
    extra = np.where(table.col >= 128, 256 + rng.integers(codes - 256, size=len(table.col)), table.col)
    moved = np.where(rng.random(len(extra)) < 0.5, extra, table.col)
    spread = sparse.csr_matrix((np.ones(len(moved), np.uint8), (table.row, moved)), shape=(rows, codes))
    spread.data[:] = 1
    return spread


def _case(rows: int, codes: int, repeats: int) -> Comparison:
    a, b = widened(rows, 0, codes), widened(rows, 1, codes)
    sets = [[set(m.indices[s:e].tolist()) for s, e in zip(m.indptr[:-1], m.indptr[1:], strict=True)] for m in (a, b)]
    some = sets[0][:QUERIES]
    mine, theirs = [], []
    expected: list[int] = []
    found: list[np.ndarray] = []
    for _ in range(repeats):
        mine.append(seconds(lambda: found.append(nearest(a, b)[0])))
        theirs.append(seconds(lambda: expected.extend(set_loop(some, sets[1]))) * rows / len(some))
    same = found[-1][: len(some)].tolist() == expected[: len(some)]
    question = f"nearest-record distances of {rows} to {rows} records, {codes} codes (loop timed on {QUERIES} of them)"
    return compare(f"nearest-record-{rows}-{codes}", question, "loop over Python sets", mine, theirs, same_result=same)


def run() -> list[Comparison]:
    cases = [
        (1000, 128, 5),
        (1000, 1116, 5),
        (10_000, 128, 3),
        (10_000, 1116, 3),
        (10_000, 2000, 3),
        (100_000, 1116, 1),
    ]
    return [_case(*case) for case in cases]
