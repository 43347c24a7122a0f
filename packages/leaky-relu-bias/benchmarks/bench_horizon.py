"""10^6 exact steps (under a minute asked for) and log-time continuation to t = 10^100 (under a second).

The peer's side is its own time a step, measured here, times the steps that it would have to make; for the
continuation, the 10^5 steps after which its end is compared.
"""

import math

import torch
from leaky_relu_bias import TwoLayerNet, continue_to, fit, gaussian, training_set
from peer import autograd
from shared_core.benchmark import Comparison, compare, seconds

REPEATS = 3
STEPS = 2000


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    X, y = gaussian(10, 784, seed=0)
    net = TwoLayerNet(50, 0.5, 1e-4, 0)
    eta = 0.2 * training_set(X, y).step_scale(50)
    W0 = net.initial_weights(784)
    # with the peer as far as it goes in a second, then with full Gram steps, which never rely on the certificate
    early = fit(X, y, net, steps=STEPS).engine.weights()[0]
    theirs = autograd(X, y, W0, 0.5, eta, STEPS)
    equal = bool((early - theirs).abs().max() < 1e-12 * theirs.abs().max())
    gram = fit(X, y, net, steps=1_000_000, engine="gram")
    exact = fit(X, y, net, steps=1_000_000)
    equal &= bool((exact.margins - gram.margins).abs().max() < 1e-9)
    short, hundred_thousand = fit(X, y, net, steps=1000), exact.margins[exact.t.round() == 1e5][0]
    same = bool((continue_to(short, 5.0).margins[-1] - hundred_thousand).abs().max() < 1e-7)

    million, far, peer = [], [], []
    for _ in range(REPEATS):
        million.append(seconds(lambda: fit(X, y, net, steps=1_000_000)))
        far.append(seconds(lambda: continue_to(short, 100.0)))
        peer.append(seconds(lambda: autograd(X, y, W0, 0.5, eta, STEPS)) / STEPS)
    assert max(million) < 60, million
    assert max(far) < 1, far
    assert math.isfinite(float(continue_to(short, 100.0).column("log10_loss")[-1, 0]))
    loop = f"torch {torch.__version__} autograd loop"
    return [
        compare(
            "million-exact-steps", "10^6 exact steps with every checkpoint, n = 10 (peer: extrapolated)",
            loop, million, [1e6 * step for step in peer], same_result=equal,
        ),
        compare(
            "continue-1e100", "log-time continuation to t = 10^100 from t = 1000 (peer: extrapolated, to 10^5 only)",
            loop, far, [1e5 * step for step in peer], same_result=same,
        ),
    ]  # fmt: skip
