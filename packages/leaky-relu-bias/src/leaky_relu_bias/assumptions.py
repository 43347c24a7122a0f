"""What the theorems ask of the data and the settings, measured; and two certificates computable from the data alone.

The constants of the paper's conditions are not known to us, so that every threshold here is an argument with a visible
default, never a hidden number.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from shared_core.errors import InputError

from leaky_relu_bias.max_margin import ideal_pattern, limits
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.orthogonality import TrainingSet, training_set
from leaky_relu_bias.pattern import margin_kernel
from leaky_relu_bias.step_size import Eta, step_sizes

Source = Literal["paper's condition", "our measure", "derived certificate"]


@dataclass(frozen=True)
class Condition:
    """One line of the check: `passed` is None where there is nothing to decide."""

    name: str
    value: float
    wanted: str
    passed: bool | None
    source: Source
    meaning: str


@dataclass(frozen=True)
class Assumptions:
    """All conditions, and whether the theorem covers these data (near-orthogonality with the given constant)."""

    conditions: tuple[Condition, ...]

    def __getitem__(self, name: str) -> Condition:
        return next(condition for condition in self.conditions if condition.name == name)

    @property
    def covered(self) -> bool:
        """Whether every condition of the paper holds with the constants that were given."""
        return all(c.passed is not False for c in self.conditions if c.source == "paper's condition")

    @property
    def uncovered_reason(self) -> str:
        """The paper's conditions that fail, in words."""
        failed = [c for c in self.conditions if c.source == "paper's condition" and c.passed is False]
        return "; ".join(f"{c.name} = {c.value:.4g}, wanted {c.wanted}" for c in failed)

    def to_dict(self) -> list[dict[str, Any]]:
        """Rows for a table or JSON."""
        return [vars(condition) for condition in self.conditions]


def check_assumptions(
    X: Any,
    y: Any = None,
    net: TwoLayerNet | None = None,
    *,
    eta: Eta = "auto",
    orthogonality: float = 1.0,
    relative_learning_rate: float = 1.0,
    init: float = 1.0,
) -> Assumptions:
    """Measure the assumptions of the theorems and the certificates C-a, C-b.

    Args:
        X: points as rows, or a `TrainingSet`.
        y: labels, any two values.
        net: width, slope, initialisation.
        eta: step size; "auto" as in `fit`.
        orthogonality: the constant C of ||x_i||^2 >= C n max_k |<x_i, x_k>|.
        relative_learning_rate: largest eta R_max^2 / (n m).
        init: largest initial pre-activation in units of what the first step adds.

    Raises:
        InputError: for bad data or constants that are not positive.
    """
    wanted = {"orthogonality": orthogonality, "relative_learning_rate": relative_learning_rate, "init": init}
    for name, constant in wanted.items():
        if not constant > 0:
            raise InputError(f"the constant {name} must be > 0, got {constant}")
    net = net or TwoLayerNet()
    data = X if isinstance(X, TrainingSet) else training_set(X, y)
    size = float(step_sizes(data, [net], eta)[0])
    relative = size / data.step_scale(net.m)
    first_update = size * data.r_min**2 / (2 * data.n * net.m)
    relative_init = net.sigma0 * data.r_max / first_update
    conditions = [
        Condition(
            "ratio", data.ratio, f">= {orthogonality:g}", data.ratio >= orthogonality, "paper's condition",
            "R_min^2 / (n p): near-orthogonality with the constant given",
        ),
        Condition("norm_ratio", data.norm_ratio, "-", None, "our measure", "R = R_max / R_min"),
        Condition(
            "relative_learning_rate", relative, f"<= {relative_learning_rate:g}", relative <= relative_learning_rate,
            "our measure", "eta R_max^2 / (n m)",
        ),
        Condition(
            "relative_init", relative_init, f"<= {init:g}", relative_init <= init, "our measure",
            f"sigma0 = {net.sigma0:g}: sigma0 R_max against the first step's eta R_min^2 / (2 n m)",
        ),
    ]  # fmt: skip
    extra = _leaky_certificates(data, net) if net.gamma > 0 else _relu_conditions(data, net)
    return Assumptions(tuple(conditions + extra))


def diagonal_dominance(data: TrainingSet, gamma: float) -> float:
    """C-a: delta = max_i sum_{k != i} |K_ik| / K_kk of the ideal pattern; below 1/2 all margins become equal.

    With beta_k = K_kk alpha_k, K alpha = 1 is (I + E) beta = 1, ||E|| = delta: |beta_k - 1| <= delta / (1 - delta).
    """
    K = margin_kernel(ideal_pattern(data, gamma), data.y, data.gram)
    return float((K.abs() / K.diagonal()).sum(1).max() - 1)


def _leaky_certificates(data: TrainingSet, net: TwoLayerNet) -> list[Condition]:
    predicted = limits(data, None, net)
    delta = diagonal_dominance(data, net.gamma)
    smallest = float(predicted.alpha.min() / predicted.alpha.max())
    return [
        Condition(
            "dominance", delta, "< 0.5", delta < 0.5, "derived certificate",
            "C-a: sufficient (not necessary) for equal margins",
        ),
        Condition(
            "smallest_alpha", smallest, "> 0", predicted.equal_margins, "derived certificate",
            f"{predicted.kind}: smallest dual variable over the largest",
        ),
        Condition(
            "self_consistent", float(predicted.pattern_self_consistent), "= 1", predicted.pattern_self_consistent,
            "derived certificate", "C-b: the limit of the ideal pattern has that pattern (no chatter at the kinks)",
        ),
    ]  # fmt: skip


def _relu_conditions(data: TrainingSet, net: TwoLayerNet) -> list[Condition]:
    active = net.initial_weights(data.d).to(data.X) @ data.X.T > 0
    positive, negative = active[: net.m], active[net.m :]
    own = (positive * (data.y > 0) + negative * (data.y < 0)).sum(0)
    fewest = int(own.min())
    odds = min(1.0, data.n * 0.5**net.m)
    return [
        Condition(
            "active_neurons", float(fewest), ">= 1", fewest >= 1, "our measure",
            f"own-class neurons active on the worst point at init (chance of a dead point <= {odds:.2g})",
        ),
        Condition(
            "orthogonal", data.ratio, "inf", math.isinf(data.ratio), "our measure",
            "ReLU limits can be predicted on exactly orthogonal points only",
        ),
    ]  # fmt: skip
