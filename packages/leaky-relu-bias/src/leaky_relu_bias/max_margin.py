"""Where gradient descent ends, from the data alone: margins, support vectors, stable ranks, loss rate.

With the final pattern D = sigma'(W X^T) fixed, let K = (y y^T) o (D^T D / m) o G and
alpha = argmin_{a >= 0} a' K a / 2 - 1' a.  Then t L(t) -> (m / eta) 1'alpha, every normalised margin of a support
vector tends to (m 1'alpha)^{-1/2}, ||W||_F / log t -> (m 1'alpha)^{1/2}, and the rows of W align with
sum_i s_r D_ri y_i alpha_i x_i.  (Derived for a fixed pattern; the paper proves the consequences for nearly
orthogonal data.)

Where these rows do not have the signs of D on points of the other class, gradient descent turns there to the other
slope, or chatters at the kink, where a mean slope in [gamma, 1] holds the pre-activation at 0. The limit is then the
smallest W with margins >= 1 over all those slopes, a convex problem (`dual.sliding_dual`).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from leaky_relu_bias.dual import NEGLIGIBLE, dual_variables, is_singular, sliding_dual
from leaky_relu_bias.network import TwoLayerNet, block_signs, network_output, slopes
from leaky_relu_bias.orthogonality import TrainingSet, training_set
from leaky_relu_bias.pattern import margin_kernel
from leaky_relu_bias.ranks import stable_rank
from leaky_relu_bias.step_size import Eta, step_sizes

# in units of a margin of 1: a larger dual residual is no solution, a point within it is on the margin
SOLVED = 1e-6


@dataclass(frozen=True, eq=False)
class Limits:
    """The prediction. Where `kind` is "not applicable ..." the numbers are NaN and `reason` says why.

    Args:
        kind: "equal-margins", "support-vectors k of n" or "not applicable (...)".
        reason: what decided the kind.
        pattern: which neurons are taken to be active on the points of their own class.
        alpha: dual variables, one a point.
        support: which points end on the margin.
        t_times_loss: limit of t L(t).
        margin: limit of min_i q_i / ||W||_F.
        margins: limit of q_i / ||W||_F of every point.
        norm_rate: limit of ||W||_F / log t.
        sr_pos: limit of the stable rank of W_{+1}; NaN where the block is not driven at all.
        sr_neg: of W_{-1}.
        sr_joint: of the whole W.
        pattern_self_consistent: whether the limit's own signs are those of the pattern, without any sliding.
        sliding: pre-activations held at 0 by chatter (of neurons x points; a leaky block counts as one neuron).
    """

    kind: str
    reason: str
    pattern: str
    alpha: Float[Tensor, " n"]
    support: Tensor
    t_times_loss: float
    margin: float
    margins: Float[Tensor, " n"]
    norm_rate: float
    sr_pos: float
    sr_neg: float
    sr_joint: float
    pattern_self_consistent: bool
    sliding: int

    @property
    def applicable(self) -> bool:
        """Whether there is a prediction."""
        return not self.kind.startswith("not applicable")

    @property
    def equal_margins(self) -> bool:
        """Whether every point is a support vector."""
        return self.kind == "equal-margins"

    def log_gaps(self) -> Float[Tensor, "n n"]:
        """Limits of q_i - q_k = log(alpha_k / alpha_i) between support vectors (inf elsewhere)."""
        logs = torch.log(self.alpha)
        return logs[None, :] - logs[:, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }  # fmt: skip


def limits(
    X: Any,
    y: Any,
    net: TwoLayerNet | None = None,
    *,
    eta: Eta = "auto",
    pattern: Float[Tensor, "two_m n"] | None = None,
) -> Limits:
    """Predict the end of a run before it is made.

    Without `pattern`, a leaky net is given the ideal pattern (every neuron active exactly on its own class) and a ReLU
    net on orthogonal data the one that its initial weights freeze into. Which neurons of a ReLU net stay active on the
    points of their own class is decided during training where the data are not orthogonal: give the pattern of a run.
    So it can be for leaky nets of small slope, where a few neurons may stay inactive on a point of their class.

    Args:
        X: points as rows.
        y: labels, any two values.
        net: width, slope, and for ReLU the seed that decides the pattern.
        eta: step size; "auto" as in `fit`.
        pattern: D = sigma'(W X^T) of a run that has settled.

    Raises:
        InputError: for bad data or values, or a pattern that does not fit them.
    """
    net = net or TwoLayerNet()
    data = X if isinstance(X, TrainingSet) else training_set(X, y)
    step = float(step_sizes(data, [net], eta)[0])
    origin = "as given"
    if pattern is None:
        if net.gamma > 0:
            pattern, origin = ideal_pattern(data, net.gamma), "taken: every neuron ends active on its own class"
        elif math.isinf(data.ratio):
            pattern, origin = orthogonal_relu_pattern(net, data), "as in the initial weights"
        else:
            return _not_applicable(
                data.n,
                "chatter",
                f"ReLU on data that are not orthogonal (ratio {data.ratio:.3g}): pre-activations of the other class "
                "keep crossing 0, and training decides which neurons keep which points; give the pattern of a run",
            )
    pattern = _checked_pattern(pattern, data)
    return replace(_limits_of(data, pattern, net, step), pattern=origin)


def _limits_of(data: TrainingSet, D: Float[Tensor, "rows n"], net: TwoLayerNet, eta: float) -> Limits:
    K = margin_kernel(D, data.y, data.gram)
    dead = (K.diagonal() <= 0).nonzero().flatten()
    if len(dead):
        reason = f"no neuron is active on point {int(dead[0])}, whose loss stays log(2) / n for ever"
        return _not_applicable(data.n, "dead point", reason)
    alpha, residual = dual_variables(K)
    A = block_signs(len(D) // 2, D)[:, None] * D * (data.y * alpha)
    if residual < SOLVED and _signs_agree(A @ data.gram, D):
        return _limits_from(data, A, alpha, net, eta, K)
    found = sliding_dual(data, D, net.gamma)
    if found is None:
        reason = "the pattern chatters, and its limit is too large for the solver or did not settle"
        return _not_applicable(data.n, "no solution", reason)
    if found.residual > SOLVED:
        reason = f"the points cannot be separated with this pattern (dual residual {found.residual:.2g})"
        return _not_applicable(data.n, "not separable", reason)
    if not _own_signs_agree(found.A @ data.gram, D, data.y):
        reason = "the limit of this pattern has other signs on its own class: training decides which neurons act there"
        return _not_applicable(data.n, "inconsistent pattern", reason)
    return _limits_from(data, found.A, found.alpha, net, eta, K, found.sliding)


def _limits_from(
    data: TrainingSet, A: Tensor, alpha: Tensor, net: TwoLayerNet, eta: float, K: Tensor, sliding: int | None = None
) -> Limits:
    half, total = len(A) // 2, float(alpha.sum())
    margin = 1 / math.sqrt(net.m * total)
    # the rows A X in the basis of the points, and the margins they give (the slopes are those of their signs)
    W = A @ torch.linalg.qr(data.X.T, mode="r").R.T
    q = data.y * network_output(A @ data.gram, net.gamma)
    # by the margins: where K is singular, alpha is 0 on some points that are on the margin
    support = (q < 1 + SOLVED) | (alpha > NEGLIGIBLE * alpha.max())
    count = int(support.sum())
    reason = "every point is a support vector" if count == data.n else f"{data.n - count} points end beyond the margin"
    if sliding:
        reason += f"; {sliding} pre-activations are held at 0 by chatter"
    if is_singular(K):
        reason += "; K is singular (parallel points), alpha is one of several"
    ranks = [float(stable_rank(part)) for part in (W[:half], W[half:], W)]
    return Limits(
        kind="equal-margins" if count == data.n else f"support-vectors {count} of {data.n}",
        reason=reason,
        pattern="",
        alpha=alpha,
        support=support,
        t_times_loss=net.m * total / eta,
        margin=margin,
        margins=q * margin,
        norm_rate=1 / margin,
        sr_pos=ranks[0],
        sr_neg=ranks[1],
        sr_joint=ranks[2],
        pattern_self_consistent=sliding is None,
        sliding=sliding or 0,
    )


def _signs_agree(Z: Tensor, D: Tensor) -> bool:
    zero = 1e-12 * Z.abs().max()
    return bool(torch.where(D == 1, -zero < Z, zero > Z).all())


def _own_signs_agree(Z: Tensor, D: Tensor, y: Tensor) -> bool:
    own = block_signs(len(D) // 2, D)[:, None] == y
    zero = 1e-7 * Z.abs().max()
    return bool((torch.where(D == 1, -zero < Z, zero > Z) | ~own).all())


def ideal_pattern(data: TrainingSet, gamma: float) -> Float[Tensor, "2 n"]:
    """D_ri = 1 if s_r = y_i else gamma; all neurons of a block are alike, so that one row stands for each."""
    return torch.stack([slopes(data.y > 0, gamma), slopes(data.y < 0, gamma)])


def orthogonal_relu_pattern(net: TwoLayerNet, data: TrainingSet) -> Float[Tensor, "two_m n"]:
    """The frozen pattern of ReLU on orthogonal points: a neuron keeps what it has of its class and leaves the other."""
    active = net.initial_weights(data.d).to(data.X) @ data.X.T > 0
    own = block_signs(net.m, data.y)[:, None] == data.y
    return (active & own).to(data.y)


def _checked_pattern(pattern: Any, data: TrainingSet) -> Float[Tensor, "two_m n"]:
    D = torch.as_tensor(pattern).to(data.X)
    if D.ndim != 2 or D.shape[1] != data.n or len(D) % 2 or not len(D):
        raise InputError(f"pattern must have shape (2m, {data.n}), got {tuple(D.shape)}")
    if not ((D >= 0) & (D <= 1)).all():
        raise InputError("pattern must hold slopes of the activation, between 0 and 1")
    return D


def _not_applicable(n: int, kind: str, reason: str) -> Limits:
    nothing = torch.full((n,), math.nan, dtype=torch.float64)
    return Limits(
        f"not applicable ({kind})", reason, "", nothing, torch.zeros(n, dtype=torch.bool), math.nan, math.nan, nothing,
        math.nan, math.nan, math.nan, math.nan, False, 0,
    )  # fmt: skip


def orthonormal_relu_stable_rank(points: int) -> float:
    """2 k / (k + 1): block stable rank of wide ReLU nets on k orthonormal points of the block's class (law L6)."""
    return 2 * points / (points + 1)


def orthonormal_joint_stable_rank(gamma: float) -> float:
    """2 (1 + gamma^2) / (1 + gamma)^2: joint stable rank on balanced orthonormal data (law L5)."""
    return 2 * (1 + gamma**2) / (1 + gamma) ** 2
