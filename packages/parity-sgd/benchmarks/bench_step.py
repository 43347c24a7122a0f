"""One step at B = 16384, d = 64, m = 64, k = 3: draw the batch, its gradient, the thresholded update.

Timed twenty at a time and divided: one alone is shorter than a time slice of the operating system.
"""

import torch
from parity_sgd.codes import unpack
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.training import Trainer
from plain_loop import draw, minus_gradient, start, step
from shared_core.benchmark import Comparison, alternate, compare

B, D, M, K, REPEATS, STEPS = 16384, 64, 64, 3, 21, 20
RHO, ETA = 3.0, 0.1


def run() -> list[Comparison]:
    trainer = Trainer(SparseParity(D, k=K), SignSGD(M, B, 1000, RHO, ETA, prune=False))
    start_weights = trainer.W.clone()
    generator = torch.Generator().manual_seed(0)
    W, a = start(M, D, generator)

    def ours() -> None:
        for _ in range(STEPS):
            trainer.W.copy_(start_weights)  # no neuron dies while the clock runs
            trainer.advance(1)

    def theirs() -> None:
        for _ in range(STEPS):
            step(W, a, K, *draw(B, D, K, generator), rho=RHO, eta=ETA)

    same = same_steps()
    mine, peer = alternate(ours, theirs, repeats=REPEATS, warmup=2)
    return [
        compare(
            "step",
            f"one step, B = {B}, d = {D}, m = {M}, k = {K}, {torch.get_num_threads()} threads",
            f"plain autograd loop, torch {torch.__version__}",
            [seconds / STEPS for seconds in mine],
            [seconds / STEPS for seconds in peer],
            same_result=same,
        ),
    ]


def same_steps() -> bool:
    """Both timed steps on the same points from the same weights, twenty times; the first one has to agree exactly.

    Later a gradient within rounding of the threshold may go either way; such entries, at most 1 in 1000, are left out.
    """
    trainer = Trainer(SparseParity(D, k=K), SignSGD(M, B, 1000, RHO, ETA, prune=False), seed=1)
    stream = trainer.task.with_seed(1)
    for number in range(20):
        W, rows = trainer.W.clone().requires_grad_(), []
        for _ in range(B // 8192):  # the order in which the trainer draws its stream
            codes, y, _ = stream.rows(8192)
            rows.append((unpack(codes, D), y))
        X, y = (torch.cat(parts) for parts in zip(*rows, strict=True))
        close = (minus_gradient(W, trainer.a, K, X, y).abs() - RHO).abs() < 1e-4 * RHO
        step(W, trainer.a, K, X, y, rho=RHO, eta=ETA)
        trainer.advance(1)
        error = (W.detach() - trainer.W).abs()
        if (number == 0 and error.max() > 0) or close.float().mean() > 1e-3 or error[~close].max() > 1e-6:
            return False
    return True
