"""Train a network, or a batch of them, by exact full-batch gradient descent with the engine that suits the data."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError, RunError
from torch import Tensor

from leaky_relu_bias.gradient_descent import Engine, PlainGD, initial_weights
from leaky_relu_bias.gram import GramGD
from leaky_relu_bias.network import TwoLayerNet, slopes
from leaky_relu_bias.normalized import NormalizedGD
from leaky_relu_bias.orthogonality import TrainingSet, training_set
from leaky_relu_bias.reduced import ReducedGD
from leaky_relu_bias.step_size import AUTO_STEP, Eta, step_sizes
from leaky_relu_bias.trajectory import Snapshot, Trajectory, checkpoint_times, observe_engine

log = logging.getLogger(__name__)
EngineName = Literal["auto", "plain", "gram", "reduced"]
Nets = TwoLayerNet | Sequence[TwoLayerNet]
ENGINES = {"plain": PlainGD, "gram": GramGD, "reduced": ReducedGD}


def fit(
    X: Any,
    y: Any,
    net: Nets | None = None,
    *,
    eta: Eta = "auto",
    steps: int = 100_000,
    engine: EngineName = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    device: str | torch.device | None = None,
    W0: Tensor | None = None,
) -> Trajectory:
    """Run `steps` updates of full-batch gradient descent, exactly.

    Args:
        X: points as rows.
        y: labels, any two values.
        net: one network, or several of the same width that are trained as a batch.
        eta: step size, one for each network if given as a list; "auto" is 0.2 n m / R_max^2.
        steps: updates.
        engine: `plain` (A1), `gram` (A2), `reduced` (A3), or `auto`; all three are gradient descent to rounding.
        dtype: float32 is offered to show where it stalls; results are meant in float64.
        device: where to compute; by default where X is.
        W0: initial weights (2m, d) instead of the networks' own.

    Raises:
        InputError: for bad data or values out of range.
        RunError: if the weights become infinite.
    """
    start = time.perf_counter()
    nets = (net or TwoLayerNet(),) if net is None or isinstance(net, TwoLayerNet) else tuple(net)
    where = device if device is not None else (X.device if isinstance(X, Tensor) else "cpu")
    data = training_set(X, y, where, torch.float64 if dtype == "float64" else torch.float32)
    made, why = make_engine(data, nets, eta, engine, W0)
    if steps < 0:
        raise InputError(f"steps must be at least 0, got {steps}")
    if dtype == "float32" and steps > 100_000:
        log.warning("float32 stalls beyond about 1e5 steps: the updates fall below one rounding step; use float64")
    snapshots = tuple(descend(made, checkpoint_times(steps)))
    return Trajectory(data, nets, snapshots, made, why, time.perf_counter() - start)


def normalized_gd(
    X: Any,
    y: Any,
    net: Nets | None = None,
    *,
    step: float = AUTO_STEP,
    steps: int = 30_000,
    device: str | torch.device | None = None,
    W0: Tensor | None = None,
) -> Trajectory:
    """A5: descent with eta_t = step (n m / R_max^2) / L(W_t), which reaches losses of 10^-1000 in thousands of steps.

    Raises:
        InputError: for bad data or values out of range.
    """
    start = time.perf_counter()
    nets = (net or TwoLayerNet(),) if net is None or isinstance(net, TwoLayerNet) else tuple(net)
    where = device if device is not None else (X.device if isinstance(X, Tensor) else "cpu")
    data = training_set(X, y, where)
    weights = initial_weights(nets, data, W0)
    h = step_sizes(data, nets, step * data.step_scale(nets[0].m))
    engine = NormalizedGD(data, weights, _gammas(nets, data), h)
    snapshots = tuple(descend(engine, checkpoint_times(steps)))
    return Trajectory(data, nets, snapshots, engine, "loss-normalised steps", time.perf_counter() - start)


def make_engine(
    data: TrainingSet, nets: Sequence[TwoLayerNet], eta: Eta = "auto", engine: EngineName = "auto", W0: Any = None
) -> tuple[Engine, str]:
    """The engine at t = 0, and why it is this one.

    Raises:
        InputError: for an unknown engine or values out of range.
    """
    weights = initial_weights(nets, data, W0)
    sizes = step_sizes(data, nets, eta)
    if any(net.sigma0 == 0 for net in nets) and W0 is None:
        log.warning("sigma0 = 0 makes all neurons of a block identical for ever")
    name, why = choose_engine(data, engine)
    return ENGINES[name](data, weights, _gammas(nets, data), sizes), why


def choose_engine(data: TrainingSet, engine: EngineName) -> tuple[str, str]:
    """Resolve `auto`: the Gram recursions cost n^2 a neuron where plain descent costs 2 n d.

    Raises:
        InputError: for an unknown engine.
    """
    if engine != "auto":
        if engine not in ENGINES:
            raise InputError(f"engine must be auto, plain, gram or reduced, got {engine!r}")
        return engine, "asked for"
    if data.n >= 2 * data.d:
        return "plain", f"n = {data.n} >= 2 d = {2 * data.d}: the Gram matrix is larger than the data"
    return (
        "reduced",
        f"n = {data.n} < 2 d = {2 * data.d}: Gram matrix, and certified chunks once the pattern holds still",
    )


def _gammas(nets: Sequence[TwoLayerNet], data: TrainingSet) -> Float[Tensor, " runs"]:
    return torch.tensor([net.gamma for net in nets], dtype=data.X.dtype, device=data.X.device)


def descend(
    engine: Engine, times: Sequence[int], after_slice: Callable[[Engine], None] | None = None
) -> Iterator[Snapshot]:
    """Advance to each time in turn and yield the record there; times already passed are left out.

    Between two times the engine stops at multiples of a fixed number of steps, where `after_slice` may save it: the
    stops depend on the problem alone, so that an interrupted run goes on with the very same arithmetic.

    Raises:
        RunError: if the weights become infinite.
    """
    slice_steps = _slice_steps(engine)
    if engine.t == 0 and times and times[0] == 0:
        yield observe_engine(engine)
    for time_ in times:
        while engine.t < time_:
            stop = min(time_, (engine.t // slice_steps + 1) * slice_steps)
            engine.advance(stop - engine.t)
            if engine.t < time_ and after_slice is not None:
                after_slice(engine)
            if engine.t == time_:
                snapshot = observe_engine(engine)
                if not torch.isfinite(snapshot.values["w_fro"]).all():
                    raise RunError(
                        f"the weights are infinite at t = {engine.t}: eta or sigma0 is too large for these data"
                    )
                yield snapshot


def _slice_steps(engine: Engine) -> int:
    """A power of ten of steps that takes seconds to some ten of them."""
    rows = engine.preactivations().numel()
    flops = 8 * rows * min(engine.data.n, 2 * engine.data.d)
    return 10 ** max(3, min(6, round(math.log10(4e10 / flops))))


def frozen_pattern(engine: Engine) -> Float[Tensor, "runs two_m n"]:
    """D = sigma'(W X^T) now."""
    return slopes(engine.preactivations() > 0, engine.gamma, engine.data.X.dtype)
