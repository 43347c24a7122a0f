"""Seconds of exact gradient descent, per step: ours against a plain PyTorch loop, equal trajectories.

Both sides get the same number of threads, the same data, initial weights and step size, and their final weights are
compared. Our side is the whole engine call; the compiled loops are compiled before the clock starts.
"""

import torch
from leaky_relu_bias import TwoLayerNet, gaussian, training_set
from leaky_relu_bias.gram import GramGD
from leaky_relu_bias.reduced import ReducedGD
from peer import train
from shared_core.benchmark import Comparison, compare, seconds

SIZES = {(10, 784, 50): (400, 100_000), (20, 4000, 100): (25, 50_000)}
REPEATS = 5


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    return [row for size, counts in SIZES.items() for row in compare_engines(*size, *counts)]


def compare_engines(n, d, m, peer_steps, reduced_steps) -> list[Comparison]:
    X, y = gaussian(n, d, seed=0)
    data = training_set(X, y)
    net = TwoLayerNet(m, 0.5, 1e-4, 0)
    W0, eta = net.initial_weights(d), 0.2 * data.step_scale(m)
    rows = []
    for name, engine, steps in (("gram", GramGD, 20 * peer_steps), ("reduced", ReducedGD, reduced_steps)):
        same = equal_trajectories(engine, data, W0, eta, X, y)
        ours, theirs = [], []
        for repeat in range(REPEATS + 1):
            # a fresh state each time, so that the first steps, where the pattern moves, are in every measurement
            state = make(engine, data, W0, eta)
            pair = (
                seconds(lambda state=state, steps=steps: state.advance(steps)) / steps,
                seconds(lambda: train(X, y, W0, 0.5, eta, peer_steps)) / peer_steps,
            )
            if repeat:
                ours.append(1e6 * pair[0])
                theirs.append(1e6 * pair[1])
        rows.append(
            compare(
                f"step-{name}-n{n}-d{d}-m{m}", f"microseconds a step, {name} engine", f"torch {torch.__version__} loop",
                ours, theirs, same_result=same, unit="us",
            )
        )  # fmt: skip
    return rows


def make(engine, data, W0, eta):
    gamma = torch.tensor([0.5], dtype=torch.float64)
    return engine(data, W0[None], gamma, torch.tensor([eta], dtype=torch.float64))


def equal_trajectories(engine, data, W0, eta, X, y, steps=200) -> bool:
    state = make(engine, data, W0, eta)
    state.advance(steps)
    theirs = train(X, y, W0, 0.5, eta, steps)
    return bool((state.weights()[0] - theirs).abs().max() < 1e-12 * theirs.abs().max())
