"""The comparison of bench_step.py on models of fewer or larger tensors, where memory and not python is the limit.

python packages/sam-cnn/benchmarks/other_models.py prints it; it is no part of results.json.
"""

from dataclasses import asdict

import torch
from bench_step import rows
from models import OTHERS
from shared_core.benchmark import print_results

if __name__ == "__main__":
    torch.set_num_threads(1)
    print_results([asdict(row) for row in rows(OTHERS)])
