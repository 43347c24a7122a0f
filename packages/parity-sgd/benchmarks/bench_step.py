"""One step at B = 16384, d = 64, m = 64, k = 3: draw the batch, its gradient, the thresholded update."""

import numpy as np
import torch
from parity_sgd.baselines import autograd_gradient
from parity_sgd.codes import unpack
from parity_sgd.gradient import batch_gradient
from parity_sgd.parity import SparseParity
from parity_sgd.training import SignSGD, Trainer
from plain_loop import draw, start, step
from shared_core.benchmark import Comparison, alternate, compare

B, D, M, K, REPEATS = 16384, 64, 64, 3, 21


def run() -> list[Comparison]:
    task = SparseParity(D, k=K)
    trainer = Trainer(task, SignSGD(M, B, 1000, 3.0, prune=False))
    start_weights = trainer.W.clone()
    generator = torch.Generator().manual_seed(0)
    W, a = start(M, D, generator)

    def ours() -> None:
        trainer.W.copy_(start_weights)  # every step from a fresh start: later steps are no harder
        trainer.advance(1)

    def theirs() -> None:
        step(W, a, K, *draw(B, D, K, generator), rho=3.0, eta=0.1)

    same = same_gradient()
    mine, peer = alternate(ours, theirs, repeats=REPEATS, warmup=3)
    return [
        compare(
            "step",
            f"one step, B = {B}, d = {D}, m = {M}, k = {K}, {torch.get_num_threads()} threads",
            f"plain autograd loop, torch {torch.__version__}",
            mine,
            peer,
            same_result=same,
        ),
    ]


def same_gradient() -> bool:
    """Both gradients of the same batch, at the start (exact integers) and at real weights."""
    codes, y, _ = SparseParity(D, k=K, seed=1).rows(B)
    X = unpack(codes, D)
    generator = torch.Generator().manual_seed(1)
    W, a = start(M, D, generator)
    at_start = torch.equal(batch_gradient(W.detach(), a, K, codes, y).float(), autograd_gradient(W, a, K, X, y))
    W = torch.randn(M, D, generator=generator)
    exact = autograd_gradient(W.double(), a.double(), K, X.double(), y.double())
    error = (batch_gradient(W, a, K, codes, y) - exact).abs().max() / exact.abs().max()
    return bool(at_start) and float(np.float64(error)) < 1e-5
