"""Peak memory of one gradient descent update as the batch grows: ours draws and sums it in chunks and keeps none of it.

Each side runs in a process of its own: first a small batch, then the large one; what counts is how much the highest
point of resident memory rose.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from bench_step import same_steps
from shared_core.benchmark import Comparison, compare

SMALL, LARGE, D, M, K, REPEATS = 2**13, 2**19, 64, 64, 3, 3
RISE = """
import json, resource, sys, torch
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.training import Trainer
from plain_loop import draw, start, step

small, large, d, m, k = json.loads(sys.argv[2])

def ours(batch):
    Trainer(SparseParity(d, k=k), SignSGD(m, batch, 1, 3.0)).advance(1)

def theirs(batch):
    generator = torch.Generator().manual_seed(0)
    W, a = start(m, d, generator)
    step(W, a, k, *draw(batch, d, k, generator), rho=3.0, eta=0.1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20

for _ in range(3):
    globals()[sys.argv[1]](2 * small)
before = peak()
globals()[sys.argv[1]](large)
print(peak() - before)
"""


def rise(side: str) -> float:
    sizes = json.dumps([SMALL, LARGE, D, M, K])
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", RISE, side, sizes], cwd=folder, capture_output=True, text=True, check=True
    )
    return max(float(done.stdout), 1.0)  # less is what allocators and stacks move about anyway


def run() -> list[Comparison]:
    mine, peer = zip(*[(rise("ours"), rise("theirs")) for _ in range(REPEATS)], strict=True)
    return [
        compare(
            "memory",
            f"rise of peak memory from B = {2 * SMALL} to B = {LARGE}, d = {D}, m = {M}, k = {K}",
            f"plain autograd loop, torch {torch.__version__}",
            list(mine),
            list(peer),
            unit="MiB",
            same_result=same_steps(),
        )
    ]
