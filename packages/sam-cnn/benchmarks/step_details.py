"""The comparison of bench_step.py in other terms; printed, and no part of results.json.

python packages/sam-cnn/benchmarks/step_details.py: restore="pointer" on the six models with the base optimiser's
own step counted on both sides; then with foreach=True for every side's base (ours chooses it by itself for small
tensors); then with a whole repeat of steps of one side before the next side's, as in a program with one optimiser; then
on models of more than a hundred tensors.
"""

from dataclasses import asdict

import torch
from bench_step import SETTINGS, rows
from models import MANY_TENSORS, MODELS
from shared_core.benchmark import print_results

if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = {"step-pointer": SETTINGS["step-pointer"]}
    found = rows(MODELS, settings, base_step_counts=True) + rows(MODELS, settings, foreach=True)
    found += rows(MODELS, settings, in_a_row=True) + rows(MANY_TENSORS, settings)
    print_results({"sam-cnn": [asdict(row) for row in found]}, {"sam-cnn": {}})
