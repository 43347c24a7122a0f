"""One-pass pretraining of Gamma to the same T: ours, autograd on the same model, and a public implementation.

Each side draws its own fresh tasks of the same law and takes the same SGD steps. That both compute the same thing is
checked on shared tasks: from the same prompts both must arrive at the same Gamma. `given-tasks-*` leaves the drawing
out: both start from the same prompts in memory.

The public code (chengxiang/LinearTransformer, linear_transformer.py) is used where ICL_LINEAR_PEER names a local
checkout; its data are noiseless, so the problem is too, and identity covariance.
"""

import importlib.util
import os
from pathlib import Path

import torch
from icl_linear import Problem, Statistics, run_sgd, sample_tasks, sgd
from icl_linear.bound import theorem_step
from icl_linear.schedule import geometric
from shared_core.benchmark import Comparison, alternate, compare

STEPS, SHORT = 3000, 400


def _autograd_sgd(Z, target, sizes, gamma):
    """The plain loop: the same model, backward, SGD step; one prompt a step."""
    gamma = gamma.clone().requires_grad_()
    optimizer = torch.optim.SGD([gamma], lr=1.0)
    for t, size in enumerate(sizes.tolist()):
        X, y, x = Z[t : t + 1, :-1, :-1], Z[t : t + 1, :-1, -1], Z[t : t + 1, -1, :-1]
        prediction = ((x @ gamma) * torch.einsum("bnd,bn->bd", X, y)).sum(-1) / X.shape[1]
        loss = (prediction - target[t : t + 1]).square().mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = size
        optimizer.step()
    return gamma.detach()


def _autograd_run(problem, context, sizes, generator):
    """Draws a batch of one prompt a step, as such loops do."""
    gamma = torch.zeros(problem.d, problem.d, requires_grad=True)
    optimizer = torch.optim.SGD([gamma], lr=1.0)
    for size in sizes.tolist():
        X = torch.randn(1, context + 1, problem.d, generator=generator)
        beta = torch.randn(1, problem.d, generator=generator)
        y = torch.einsum("bnd,bd->bn", X, beta)
        v = torch.einsum("bnd,bn->bd", X[:, :-1], y[:, :-1]) / context
        loss = (((X[:, -1] @ gamma) * v).sum(-1) - y[:, -1]).square().mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = size
        optimizer.step()
    return gamma.detach()


def _peer_module():
    path = os.environ.get("ICL_LINEAR_PEER")
    if not path:
        return None
    file = Path(path) / "linear_transformer.py"
    if not file.is_file():
        raise FileNotFoundError(f"ICL_LINEAR_PEER={path} holds no linear_transformer.py")
    spec = importlib.util.spec_from_file_location("linear_transformer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _peer_sgd(peer, context, d, sizes, prompts=None):
    """The public layer with its own loss; its Q is -Gamma, and its loss e^2 halves the step."""
    model = peer.Transformer_F(1, 1, d, 0.0)
    with torch.no_grad():
        model.allparam.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for t, size in enumerate(sizes.tolist()):
        Z, y = (
            peer.generate_data(N=context, d=d, B=1)
            if prompts is None
            else (prompts[0][t : t + 1], prompts[1][t : t + 1])
        )
        loss = peer.in_context_loss(model, Z, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = size / 2
        optimizer.step()
    return -model.allparam.detach()[0, 0, 1]


def _question(d, context, peer):
    problem = Problem(torch.ones(d), 1.0, 0.0)
    gamma0 = theorem_step(problem, context)
    full, short = geometric(gamma0, STEPS), geometric(gamma0, SHORT)
    sizes, short_sizes = (torch.tensor(s.step_sizes()) for s in (full, short))
    tasks = sample_tasks(problem, context, SHORT, torch.Generator().manual_seed(0), dtype=torch.float32)
    queries = torch.cat([tasks.x_query[:, None], torch.zeros(SHORT, 1, 1)], -1)
    Z = torch.cat([torch.cat([tasks.X, tasks.y[..., None]], -1), queries], 1)
    zero = torch.zeros(1, d, d)

    def ours_given():
        statistics = tasks.statistics()
        return run_sgd(
            zero, Statistics(*(part[None] for part in (statistics.v, statistics.x, statistics.y))), short_sizes
        )[0]

    def ours():
        return sgd(problem, context, full, torch.Generator().manual_seed(1))

    def close(other):
        found = ours_given()
        return bool((found - other).abs().max() < 1e-4 * found.abs().max())

    question = f"pretrain Gamma on T = {STEPS} fresh tasks, d = {d}, N = {context}, drawing included"
    rows = []
    loop = "plain autograd loop"
    seconds = alternate(ours, lambda: _autograd_run(problem, context, sizes, torch.Generator().manual_seed(1)), 7)
    same = close(_autograd_sgd(Z, tasks.y_query, short_sizes, zero[0]))
    rows.append(compare(f"pretrain-d{d}", question, loop, *seconds, same_result=same))
    seconds = alternate(ours_given, lambda: _autograd_sgd(Z, tasks.y_query, short_sizes, zero[0]), 9)
    given = f"SGD over the same {SHORT} prompts in memory, d = {d}, N = {context}"
    rows.append(compare(f"given-tasks-d{d}", given, loop, *seconds, same_result=same))
    if peer is not None:
        seconds = alternate(ours, lambda: _peer_sgd(peer, context, d, sizes), 3)
        same = close(_peer_sgd(peer, context, d, short_sizes, (Z, tasks.y_query)))
        rows.append(compare(f"pretrain-d{d}", question, "chengxiang/LinearTransformer", *seconds, same_result=same))
    return rows


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    peer = _peer_module()
    return [*_question(20, 40, peer), *_question(64, 256, peer)]
