"""A4: gradient descent continued to astronomical times in s = log t, with the pattern held and checked.

With the pattern fixed, W_t = W_{t0} + (eta/(n m)) (s o D o (y c)) X, where c = sum of g over the steps and
q = q_0 + M c, M = (eta/(n m)) K. Euler's method with step 1 follows, to second order, the flow
dc/dt = r + (1/2) r (1 - r) o M r, r = 1/(1 + e^q) (backward error analysis); in s = log t that is
dc/ds = u + (1/2) u (1 - r) o M r with u = e^s r = 1/(e^-s + e^{q - s}), which neither over- nor underflows.
"""

import itertools
import logging
import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError, RunError
from torch import Tensor

from leaky_relu_bias.descent import frozen_pattern
from leaky_relu_bias.gradient_descent import Engine
from leaky_relu_bias.network import block_signs
from leaky_relu_bias.pattern import margin_kernel, sign_is_kept
from leaky_relu_bias.trajectory import Snapshot, Trajectory, observe

log = logging.getLogger(__name__)
# below this many steps the flow is not yet close enough to the discrete steps (error ~ 1 / t^2)
EARLIEST = 100
# beyond, q - log t keeps too few digits
LATEST = 1e6
NARROWEST = 1e-4


def continue_to(trajectory: Trajectory, log10_t: float, points: int = 40) -> Trajectory:
    """Continue finished runs to t = 10^log10_t; approximate with error control, and labelled so.

    Args:
        trajectory: runs whose pattern holds still, at t >= 100.
        log10_t: how far.
        points: checkpoints, evenly spaced in log log t.

    Returns:
        the continued part alone (`trajectory.then(...)` joins them).

    Raises:
        InputError: if log10_t is not beyond the present time, or that is too early.
        RunError: if an activation would change its sign on the way; names when.
    """
    start = time.perf_counter()
    engine = trajectory.engine
    _check(trajectory, log10_t, points)
    s0, s1 = math.log(engine.t), log10_t * math.log(10)
    times = s0 * (s1 / s0) ** np.linspace(0, 1, points + 1)[1:]
    times[-1] = s1
    runs = [_Continued(engine, run, s0, s1) for run in range(len(engine.gamma))]
    for run in runs:
        run.certify_pattern()
    snapshots = tuple(_observe_continued(engine, runs, float(s)) for s in times)
    why = f"continued from t = {engine.t} in log time (first-order corrected flow, pattern certified)"
    return Trajectory(trajectory.data, trajectory.nets, snapshots, engine, why, time.perf_counter() - start, (why,))


def _check(trajectory: Trajectory, log10_t: float, points: int) -> None:
    t = trajectory.engine.t
    if trajectory.engine.name == "normalized":
        raise InputError("loss-normalised descent has another clock: continue a run of constant step size")
    if t < EARLIEST:
        raise InputError(f"the run must have made at least {EARLIEST} exact steps before it is continued, it has {t}")
    if not (math.isfinite(log10_t) and log10_t > math.log10(t)):
        raise InputError(f"log10_t must be beyond the run's log10 t = {math.log10(t):.3g}, got {log10_t}")
    if log10_t > LATEST:
        raise InputError(f"log10_t must be at most {LATEST:g}, got {log10_t}")
    if points < 1:
        raise InputError(f"points must be at least 1, got {points}")


class _Continued:
    """One run's flow of c from s0 to s1."""

    def __init__(self, engine: Engine, run: int, s0: float, s1: float) -> None:
        self.engine, self.s0, self.s1 = engine, s0, s1
        self.index = run
        data, m = engine.data, engine.m
        self.D = frozen_pattern(engine)[run]
        self.Z = engine.preactivations()[run]
        signs = block_signs(m, data.X)[:, None]
        self.rate = float(engine.eta[run]) / (data.n * m)
        self.pull = self.rate * signs * self.D * data.y
        M = self.rate * margin_kernel(self.D, data.y, data.gram)
        q0 = data.y * (signs * self.D * self.Z).sum(0) / m
        self._solution = _solve(M.cpu().double().numpy(), q0.cpu().double().numpy(), s0, s1)

    def change(self, s: float) -> Float[Tensor, "two_m n"]:
        """What A has gained at time e^s."""
        return self.pull * torch.as_tensor(self._solution(s)).to(self.pull)

    def certify_pattern(self) -> None:
        """Prove that no pre-activation changes its sign, interval by interval; halve where the proof fails.

        Raises:
            RunError: where a sign changes, or the proof fails on the shortest interval.
        """
        active = self.Z > 0
        grid = self.s0 * (self.s1 / self.s0) ** np.linspace(0, 1, 65)
        pending = list(itertools.pairwise(grid))[::-1]
        while pending:
            low, high = pending.pop()
            before, after = self.change(low), self.change(high)
            gram = self.engine.data.gram
            kept = sign_is_kept(self.Z + before @ gram, active, after - before, gram)
            if bool(kept.all()):
                continue
            if high - low < NARROWEST * high:
                row, point = (int(index) for index in (~kept).nonzero()[0])
                raise RunError(
                    f"the activation of neuron {row} on point {point} is about to change its sign near "
                    f"log10 t = {low / math.log(10):.4g}: make exact steps beyond that time first"
                )
            middle = (low + high) / 2
            pending += [(middle, high), (low, middle)]


def _solve(M: Float[np.ndarray, "n n"], q0: Float[np.ndarray, " n"], s0: float, s1: float):  # type: ignore[no-untyped-def]  # a callable of scipy
    from scipy.integrate import solve_ivp

    def parts(s: float, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        b = q0 + M @ c - s
        log_u = -np.logaddexp(-s, b)
        return np.exp(log_u), np.exp(log_u - s), np.exp(log_u + b)  # u, r, 1 - r

    def flow(s: float, c: np.ndarray) -> np.ndarray:
        u, r, rest = parts(s, c)
        return u + 0.5 * u * rest * (M @ r)

    def jacobian(s: float, c: np.ndarray) -> np.ndarray:
        u, _, rest = parts(s, c)
        return -(u * rest)[:, None] * M

    scale = np.abs(np.linalg.eigvalsh(M)).max()
    # M c is of the order of s - s0, and q is wanted to about 1e-10
    found = solve_ivp(
        flow, (s0, s1), np.zeros_like(q0), method="LSODA", jac=jacobian, rtol=1e-11, atol=1e-12 / scale,
        dense_output=True,
    )  # fmt: skip
    if not found.success:
        raise RunError(f"the continuation stopped at log10 t = {found.t[-1] / math.log(10):.4g}: {found.message}")
    return found.sol


def _observe_continued(engine: Engine, runs: Sequence[_Continued], s: float) -> Snapshot:
    change = torch.stack([run.change(s) for run in runs])
    Z = engine.preactivations() + change @ engine.data.gram
    return observe(engine, s, Z, engine.isometric_weights(change))
