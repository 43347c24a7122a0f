"""The comparison of bench_step.py where it is less favourable; printed, and no part of results.json.

python packages/sam-cnn/benchmarks/other_models.py: first models of fewer or larger tensors, where memory and not python
is the limit; then the models of bench_step.py with the base optimiser's own step counted on both sides.
"""

from dataclasses import asdict

import torch
from bench_step import rows
from models import MODELS, OTHERS
from shared_core.benchmark import print_results

if __name__ == "__main__":
    torch.set_num_threads(1)
    print_results([asdict(row) for row in rows(OTHERS) + rows(MODELS, base_step_counts=True)])
