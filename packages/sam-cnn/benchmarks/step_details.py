"""The comparison of bench_step.py in other terms; printed, and no part of results.json.

python packages/sam-cnn/benchmarks/step_details.py: the six models with the base optimiser's own step counted on both
sides, then with foreach=True for every side's base (ours is built so by itself), then models of more than a hundred
tensors.
"""

from dataclasses import asdict

import torch
from bench_step import rows
from models import MANY_TENSORS, MODELS
from shared_core.benchmark import print_results

if __name__ == "__main__":
    torch.set_num_threads(1)
    found = rows(MODELS, base_step_counts=True) + rows(MODELS, foreach=True) + rows(MANY_TENSORS)
    print_results([asdict(row) for row in found])
