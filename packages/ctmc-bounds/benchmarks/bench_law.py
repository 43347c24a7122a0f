"""The exact law of the paper's sampler at 2^14 states and 32 steps, from uniform noise: seconds of the whole call.

The peer is scipy's expm_multiply with the sparse generator assembled on each interval, as one would do without knowing
of the Kronecker structure; q_t by one mean over each axis in numpy, index arrays made once, outside the clock. Both are
given the data as a table, and one thread.
"""

import subprocess
import sys

import numpy as np
import scipy
import scipy.sparse
import torch
from ctmc_bounds import EnumeratedSpace, TimeFrozen, exp_const
from ctmc_bounds.spec import mix, read_data
from scipy.sparse.linalg import expm_multiply
from shared_core.benchmark import Comparison, compare, seconds

D, STEPS, REPEATS = 14, 32, 5


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    sampler = TimeFrozen(exp_const(6, 0.01, STEPS))
    rows = []
    for name, data in (("mixture", mix(D)), ("ising", read_data(f"ising:d={D}"))):
        peer = Peer(data)
        data.table  # noqa: B018 - both sides are given the data as a table
        mine = sampler.law(data, representation="enumerated")
        theirs = peer.law(sampler.schedule)
        gap = float(np.abs(mine.probabilities.numpy() - theirs).max() / theirs.max())
        print(f"{name}: largest difference {gap:.2g} of the largest probability, KL = {mine.kl:.6g}")
        ours, others = [], []
        for _ in range(REPEATS):
            ours.append(seconds(lambda: sampler.law(data, representation="enumerated")))  # noqa: B023
            others.append(seconds(lambda: peer.law(sampler.schedule)))  # noqa: B023
        rows.append(
            compare(
                f"law-2^14-{name}", f"seconds of the exact law, 2^{D} states, {STEPS} steps, {name} data",
                f"scipy {scipy.__version__} expm_multiply on the assembled matrix", ours, others,
                same_result=gap < 1e-12,
            )
        )  # fmt: skip
    large_space()
    return rows


def large_space() -> None:
    """2^20 states within a few vectors, and the counts of d = 256: printed, and asserted."""
    # a process of its own: the peak of this one is the peer's
    print(subprocess.run([sys.executable, "-c", LARGE], check=True, capture_output=True, text=True).stdout, end="")
    counts = TimeFrozen(exp_const(6, 0.01, 64))
    took = min(seconds(lambda: counts.law(mix(256))) for _ in range(3))
    print(f"exchangeable, d = 256, 64 steps: {took:.2f} s")
    assert took < 1, took


LARGE = """
import time, torch
from shared_core.device import peak_memory
from ctmc_bounds import TableData, TimeFrozen, exp_const
torch.set_num_threads(1)
sampler = TimeFrozen(exp_const(0.1, 0.05, 2))
small = torch.rand(2**18, dtype=torch.float64)
sampler.law(TableData(small / small.sum(), 2, 18), representation="enumerated").kl  # libraries are loaded
p = torch.rand(2**20, dtype=torch.float64)
data = TableData(p.div_(p.sum()), 2, 20)
before, begun = peak_memory(torch.device("cpu")), time.perf_counter()
law = sampler.law(data, representation="enumerated")
took, grown = time.perf_counter() - begun, (peak_memory(torch.device("cpu")) - before) / (8 * 2**20)
print(f"2^20 states, 2 steps, {law.products} products: {took:.1f} s, {grown:.1f} vectors of 8 MB beyond the table")
assert grown < 16, grown
"""


class Peer:
    """expm_multiply on (h G)^T, G assembled from the exact score on each interval."""

    def __init__(self, data):
        self.space = EnumeratedSpace(data.S, data.d)
        self.table = data.table.numpy()
        off = (self.space.multiplicity > 0).nonzero()
        self.rows, self.cols = off[:, 0].numpy(), self.space.dst[off[:, 0], off[:, 1]].numpy()

    def marginal(self, t):
        q, S = self.table, self.space.S
        for axis in range(self.space.d):
            q = q.reshape(S**axis, S, -1)
            q = np.exp(-t) * q - np.expm1(-t) * q.mean(1, keepdims=True)
        return q.ravel()

    def law(self, schedule):
        p = np.full(self.space.n, 1 / self.space.n)
        for t, h in schedule.intervals:
            q = self.marginal(t)
            rates = q[self.cols] / q[self.rows] / self.space.S
            off = scipy.sparse.csr_matrix((rates, (self.cols, self.rows)), shape=(self.space.n, self.space.n))
            exits = np.bincount(self.rows, rates, self.space.n)
            p = expm_multiply(h * (off - scipy.sparse.diags(exits)).tocsr(), p)
        return p
