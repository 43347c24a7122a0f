"""What a SAM step costs beyond its two forward-backward passes and the plain optimiser's step, at six model sizes.

Every side trains its own copy of the model on the same batches with SGD and momentum, called as a user calls it; the
time of the optimiser's calls in a real loop is summed, and that of a plain `torch.optim.SGD` in the same loop is taken
off. Within a step the sides go in random order: a side's cost depends on whose code ran before it. Each measurement is
the smallest of several steps. Weights must agree at the end.

Rows `step` are the default, `restore="copy"`, which goes everywhere; rows `step-pointer` have `restore="pointer"`, for
a plain loop in one process. Each is measured by itself beside the peers.

davda54/sam is not on PyPI: SAM_CNN_DAVDA54 names a local checkout, and its rows are left out where it is not set.
"""

import copy
import importlib.metadata
import importlib.util
import os
import random
import time
from functools import partial
from pathlib import Path

import torch
from models import MODELS
from sam_cnn import SAM
from shared_core.benchmark import Comparison, compare

STEPS, REPEATS = 16, 7
SETTINGS = {"step": {"restore": "copy"}, "step-pointer": {"restore": "pointer"}}


def davda54():
    path = os.environ.get("SAM_CNN_DAVDA54")
    if not path:
        return None
    file = Path(path) / "sam.py"
    if not file.is_file():
        raise FileNotFoundError(f"SAM_CNN_DAVDA54={path} holds no sam.py")
    spec = importlib.util.spec_from_file_location("davda54_sam", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SAM


def peers():
    import pytorch_optimizer

    version = importlib.metadata.version("pytorch_optimizer")
    found = {"davda54/sam": davda54(), f"pytorch_optimizer {version}": pytorch_optimizer.SAM}
    return {name: peer for name, peer in found.items() if peer is not None}


class Side:
    """A copy of the model with one optimiser; None is the plain base."""

    def __init__(self, model, kind, options):
        self.model = copy.deepcopy(model)
        settings = {"lr": 1e-3, "momentum": 0.9, **options}
        self.sam = kind is not None
        params = self.model.parameters()
        self.optimizer = (
            kind(params, torch.optim.SGD, rho=0.05, **settings) if kind else torch.optim.SGD(params, **settings)
        )

    def step(self, x):
        """Seconds in the optimiser's calls of one step."""
        if not self.sam:
            self._backward(x)
            return self._timed(self.optimizer.step) + self._timed(self.optimizer.zero_grad)
        self._backward(x)
        first = self._timed(lambda: self.optimizer.first_step(zero_grad=True))
        self._backward(x)
        return first + self._timed(lambda: self.optimizer.second_step(zero_grad=True))

    def _backward(self, x):
        self.model(x).square().mean().backward()

    def _timed(self, call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def turns(names, shuffle, in_a_row):
    """Whose step is next, in one repeat."""
    if in_a_row:
        shuffle(names)
        return [name for name in names for _ in range(STEPS)]
    return [name for _ in range(STEPS) for name in shuffle(names) or names]


def measure(model, x, kinds, options, in_a_row=False):
    """{side: smallest seconds of each repeat}, and whether all SAMs ended at the same weights."""
    sides = {name: Side(model, kind, options) for name, kind in kinds.items()}
    seconds = {name: [] for name in sides}
    shuffle = random.Random(0).shuffle
    for repeat in range(REPEATS + 1):
        best = dict.fromkeys(sides, float("inf"))
        for name in turns(list(sides), shuffle, in_a_row):
            best[name] = min(best[name], sides[name].step(x))
        if repeat:  # the first warms up
            for name, value in best.items():
                seconds[name].append(value)
    ends = [torch.cat([p.detach().flatten() for p in side.model.parameters()]) for side in sides.values() if side.sam]
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    moved = (ends[0] - start).abs().max()
    return seconds, bool(all((end - ends[0]).abs().max() < 1e-3 * moved for end in ends))


def rows(models, settings=SETTINGS, *, base_step_counts=False, in_a_row=False, **options):
    """One comparison a model, setting and peer; the base optimiser's own step is taken off unless it counts.

    `settings` are ids of rows with the options of our side; `in_a_row` gives each side its turn for a whole repeat;
    `options` go to every side's base optimiser.
    """
    results = []
    for id, ours in settings.items():
        kinds = {"plain": None, "ours": partial(SAM, **ours), **peers()}
        for name, make in models.items():
            torch.manual_seed(0)
            model, x = make()
            seconds, same = measure(model, x, kinds, options, in_a_row)
            tensors = list(model.parameters())
            size = f"{name}: {sum(p.numel() for p in tensors)} parameters in {len(tensors)} tensors"
            question = f"{size}; beyond two passes" + ("" if base_step_counts else " and a plain SGD step")
            question += "".join(f", {name}={value}" for name, value in {**ours, **options}.items())
            for peer in list(kinds)[2:]:
                extra = {
                    side: [
                        1e3 * (a - b * (not base_step_counts))
                        for a, b in zip(seconds[side], seconds["plain"], strict=True)
                    ]
                    for side in ("ours", peer)
                }
                results.append(compare(id, question, peer, extra["ours"], extra[peer], same_result=same, unit="ms"))
    return results


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    return rows(MODELS)
