"""What came out of a run: its settings and geometry, the end beside the prediction, the verdicts."""

from dataclasses import replace
from typing import Any

from shared_core.run_folder import installed_version

from leaky_relu_bias.assumptions import check_assumptions
from leaky_relu_bias.descent import frozen_pattern
from leaky_relu_bias.max_margin import Limits, limits
from leaky_relu_bias.network import block_signs
from leaky_relu_bias.orthogonality import TrainingSet
from leaky_relu_bias.step_size import Eta
from leaky_relu_bias.trajectory import Trajectory
from leaky_relu_bias.verdicts import judge

PACKAGE = "leaky-relu-bias"


def predict(trajectory: Trajectory, run: int = 0) -> Limits:
    """The limits of a run: from the data alone where they hold for it, else with the pattern that it reached.

    The prediction before training takes every neuron to be active on the points of its class. Where some are not
    (ReLU, and leaky nets of small slope), the limits are those of the pattern reached, and the reason says so.
    """
    net, data = trajectory.nets[run], trajectory.data
    data = TrainingSet(data.X.double(), data.y.double())
    # the h of loss-normalised descent is no step size
    eta: Eta = float(trajectory.engine.eta[run]) if trajectory.engine.name != "normalized" else "auto"
    first = limits(data, None, net, eta=eta)
    D = frozen_pattern(trajectory.engine)[run].double()
    own = block_signs(net.m, data.y)[:, None] == data.y
    idle = float((D[own] < 1).double().mean())
    if first.applicable and (net.gamma == 0 or idle == 0):
        return first
    reached = limits(data, None, net, eta=eta, pattern=D)
    return replace(reached, reason=f"with the pattern reached at t = {trajectory.engine.t}: {reached.reason}")


def describe(trajectory: Trajectory, dtype: str) -> dict[str, Any]:
    """Everything that a result says of a run beside its end: engine, sizes, settings, geometry, wall time."""
    net, engine, data = trajectory.nets[0], trajectory.engine, trajectory.data
    eta = float(engine.eta[0])
    return {
        "package": PACKAGE,
        "version": installed_version(PACKAGE),
        "engine": engine.name,
        "why": trajectory.why,
        "work": engine.work(),
        "dtype": dtype,
        **data.describe(),
        "m": net.m,
        "gamma": net.gamma,
        "learning_rate": eta,
        "relative_learning_rate": eta / data.step_scale(net.m),
        "sigma0": net.sigma0,
        "seeds": [item.seed for item in trajectory.nets],
        "seconds": round(trajectory.seconds, 3),
    }


def ends(trajectory: Trajectory) -> list[dict[str, Any]]:
    """For every run its last record, its limits and the verdicts C1 to C4."""
    found = []
    for run, net in enumerate(trajectory.nets):
        predicted = predict(trajectory, run)
        eta = float(trajectory.engine.eta[run])
        data = TrainingSet(trajectory.data.X.double(), trajectory.data.y.double())
        assumptions = check_assumptions(data, None, net, eta=eta)
        verdicts = judge(trajectory, predicted, assumptions, run)
        row = trajectory.snapshots[-1].rows()[run]
        found.append(
            {"seed": net.seed, "final": row, "limits": predicted.to_dict(),
             "claims": [item.to_dict() for item in verdicts]}
        )  # fmt: skip
    return found
