"""Seconds of exact gradient descent, per step: ours against plain PyTorch loops, equal trajectories.

Both sides get one thread, the same data, initial weights and step size, float64. Our time is that of everything from
the weights given to the weights after all steps: Gram matrix, factorisation, steps, W = W_0 + A X; only the
compilation of the loops (once a machine) comes before the clock. A step of the peer costs the same at every t, so that
fewer of them are timed. A step of the reduced engine is one exact update of every margin; the certificate of the
pattern is paid once a chunk, and the full steps that it falls back to at the start are among those counted.
"""

import torch
from leaky_relu_bias import TwoLayerNet, gaussian, training_set
from leaky_relu_bias.gram import GramGD
from leaky_relu_bias.reduced import ReducedGD
from peer import autograd, by_hand
from shared_core.benchmark import Comparison, compare, seconds

# (n, d, m): steps of the peers, of gram, of reduced; horizon over which trajectories are compared
SIZES = {(10, 784, 50): (300, 20_000, 200_000, 2000), (20, 4000, 100): (30, 20_000, 200_000, 500)}
PEERS = {"autograd loop": autograd, "closed-form loop": by_hand}
REPEATS = 5
ROUNDING = 1e-12


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    return [row for size, counts in SIZES.items() for row in compare_engines(*size, *counts)]


def compare_engines(n, d, m, peer_steps, gram_steps, reduced_steps, horizon) -> list[Comparison]:
    X, y = gaussian(n, d, seed=0)
    net = TwoLayerNet(m, 0.5, 1e-4, 0)
    W0, eta = net.initial_weights(d), 0.2 * training_set(X, y).step_scale(m)
    engines = {"gram": (GramGD, gram_steps), "reduced": (ReducedGD, reduced_steps)}
    same = {
        (name, peer): equal_trajectories(engine, loop, X, y, W0, eta, horizon)
        for name, (engine, _) in engines.items()
        for peer, loop in PEERS.items()
    }
    times = {name: [] for name in (*engines, *PEERS)}
    for _ in range(REPEATS):
        for name, (engine, steps) in engines.items():
            call = lambda engine=engine, steps=steps: ours(engine, X, y, W0, eta, steps)  # noqa: E731
            times[name].append(1e6 * seconds(call) / steps)
        for name, loop in PEERS.items():
            call = lambda loop=loop: loop(X, y, W0, 0.5, eta, peer_steps)  # noqa: E731
            times[name].append(1e6 * seconds(call) / peer_steps)
    return [
        compare(
            f"step-{name}-n{n}-d{d}-m{m}{'' if peer == 'autograd loop' else '-by-hand'}",
            f"microseconds a step, {name} engine, over {steps} steps with set-up",
            f"torch {torch.__version__} {peer}", times[name], times[peer], same_result=same[name, peer], unit="us",
        )
        for peer in PEERS
        for name, (_, steps) in engines.items()
    ]  # fmt: skip


def begin(engine, X, y, W0, eta):
    gamma = torch.tensor([0.5], dtype=torch.float64)
    return engine(training_set(X, y), W0[None], gamma, torch.tensor([eta], dtype=torch.float64))


def ours(engine, X, y, W0, eta, steps):
    state = begin(engine, X, y, W0, eta)
    state.advance(steps)
    return state.weights()[0]


def equal_trajectories(engine, loop, X, y, W0, eta, horizon) -> bool:
    """Weights at t = 1, 2, 5, ..., horizon, to rounding."""
    state, theirs, t = begin(engine, X, y, W0, eta), W0, 0
    for time in [base * 10**power for power in range(4) for base in (1, 2, 5)]:
        if time > horizon:
            break
        state.advance(time - t)
        theirs, t = loop(X, y, theirs, 0.5, eta, time - t), time
        if (state.weights()[0] - theirs).abs().max() > ROUNDING * theirs.abs().max():
            return False
    return True
