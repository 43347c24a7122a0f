"""The phase diagram of 420 cells x 10 seeds, beside the loop that one would write: a module, autograd, cell by cell.

Both train the paper's network for 100 full-batch steps and measure the error on 1000 fresh points. The loop is timed on
cells with the smallest, the middle and the largest dimension; its cost does not depend on |mu|, and over d it is
interpolated. That both compute the same is checked twice: on the same arrays the weights agree, and over fresh draws
the mean test errors do.
"""

import math
import time

import torch
from sam_cnn import (
    PatchData,
    Schedule,
    Training,
    TwoLayerCNN,
    draw_patches,
    exact_span,
    phase_diagram,
    simulate,
    span_vectors,
    train_span,
)
from shared_core.benchmark import Comparison, compare

D, MU, SEEDS = range(1000, 21001, 1000), [0.5 * k for k in range(1, 21)], range(10)


def _loop(data, tau, generator, dtype=torch.float32, steps=100, points=1000, given=None):
    """One run as a script would do it."""
    sample = draw_patches(data, generator, dtype=dtype)
    weight = torch.randn(2, 10, data.d, generator=generator, dtype=dtype) / math.sqrt(3 * data.d)
    sample, weight = given or (sample, weight)
    net = TwoLayerCNN(weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = sample.patches(data.P, generator)

    def backward():
        optimizer.zero_grad()
        torch.nn.functional.softplus(-sample.y * net(x)).mean().backward()

    for _ in range(steps):
        backward()
        if tau:
            with torch.no_grad():
                step = tau * net.weight.grad / net.weight.grad.norm()
                net.weight.add_(step)
            backward()
            with torch.no_grad():
                net.weight.sub_(step)
        optimizer.step()
    if given:
        return net.weight.detach()
    test = draw_patches(data, generator, points, dtype)
    with torch.no_grad():
        return float((net(test.patches(data.P, generator)).sign() != test.clean).float().mean())


def _same_weights(tau):
    data = PatchData(d=2000, mu=4.0)
    generator = torch.Generator().manual_seed(0)
    sample = draw_patches(data, generator)
    weight = torch.randn(2, 10, data.d, generator=generator, dtype=torch.float64) / math.sqrt(6000)
    theirs = _loop(data, tau, generator, torch.float64, given=(sample, weight))
    end = train_span(exact_span(weight, sample, data.P), Schedule(100), 0.01, tau)
    ours = weight + (end.coefficients[0] @ span_vectors(sample)).view_as(weight)
    return bool((ours - theirs).abs().max() < 1e-10)


def _same_errors(tau):
    data = PatchData(d=1000, mu=4.0)
    theirs = torch.tensor([_loop(data, tau, torch.Generator().manual_seed(seed)) for seed in range(40)])
    ours = simulate(data, Training(tau=tau), range(40)).clean_error
    error = math.sqrt(float(theirs.var() + ours.var()) / 40)
    return abs(float(theirs.mean() - ours.mean())) < 3.5 * error


def _row(id, name, tau):
    ours, theirs = [], []
    for repeat in range(3):
        start = time.perf_counter()
        phase_diagram(PatchData(), list(D), MU, Training(tau=tau), SEEDS)
        ours.append(time.perf_counter() - start)
        costs = []
        for d in (1000, 11_000, 21_000):
            start = time.perf_counter()
            _loop(PatchData(d=d, mu=MU[repeat * 6]), tau, torch.Generator().manual_seed(repeat))
            costs.append(time.perf_counter() - start)
        mean = (costs[0] + 2 * costs[1] + costs[2]) / 4  # trapezoid over d
        theirs.append(mean * len(D) * len(MU) * len(SEEDS))
    same = _same_weights(tau) and _same_errors(tau)
    question = f"{name}: phase diagram, 420 cells x 10 seeds, 100 steps, 1000 test points"
    return compare(id, question, "autograd loop, timed on 3 cells a repeat", ours, theirs, same_result=same)


def run() -> list[Comparison]:
    _loop(PatchData(d=1000), 0.0, torch.Generator())  # first calls cost more on both sides
    simulate(PatchData(), Training(), range(3))
    return [_row("phase-gd", "GD", 0.0), _row("phase-sam", "SAM, tau 0.03", 0.03)]
