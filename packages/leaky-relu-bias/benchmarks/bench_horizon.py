"""10^6 exact steps (under a minute asked for) and log-time continuation to t = 10^100 (under a second).

The peer's side is its own time a step, measured here, times the steps that it would have to make; for the
continuation, the 10^5 steps that its exact end is compared with.
"""

import math

import torch
from leaky_relu_bias import TwoLayerNet, continue_to, fit, gaussian, training_set
from peer import train
from shared_core.benchmark import Comparison, compare, seconds

REPEATS = 3


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    X, y = gaussian(10, 784, seed=0)
    net = TwoLayerNet(50, 0.5, 1e-4, 0)
    eta = 0.2 * training_set(X, y).step_scale(50)
    W0 = net.initial_weights(784)
    short = fit(X, y, net, steps=1000)
    exact = fit(X, y, net, steps=100_000)
    reached = continue_to(short, 5.0)
    same = bool((reached.margins[-1] - exact.margins[-1]).abs().max() < 1e-7)
    early = fit(X, y, net, steps=300).engine.weights()[0]
    theirs_early = train(X, y, W0, 0.5, eta, 300)
    equal = bool((early - theirs_early).abs().max() < 1e-12 * theirs_early.abs().max())

    million, far, peer = [], [], []
    for _ in range(REPEATS):
        million.append(seconds(lambda: fit(X, y, net, steps=1_000_000)))
        far.append(seconds(lambda: continue_to(short, 100.0)))
        peer.append(seconds(lambda: train(X, y, W0, 0.5, eta, 300)) / 300)
    assert max(million) < 60, million
    assert max(far) < 1, far
    assert math.isfinite(float(continue_to(short, 100.0).column("log10_loss")[-1, 0]))
    loop = f"torch {torch.__version__} loop"
    return [
        compare(
            "million-exact-steps", "seconds of 10^6 exact steps with every checkpoint, n = 10 (peer: extrapolated)",
            loop, million, [1e6 * step for step in peer], same_result=equal,
        ),
        compare(
            "continue-1e100", "seconds to t = 10^100 from t = 1000 (peer: extrapolated to 10^5 steps only)",
            loop, far, [1e5 * step for step in peer], same_result=same,
        ),
    ]  # fmt: skip
