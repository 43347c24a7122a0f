"""Which parameters climb, along what, and how far."""

from typing import Any

from torch import Tensor

from sam_cnn.perturbation import SMALLEST_NORM, check_supported, global_norm, scale_for_asam, with_gradients
from sam_cnn.restoring import Backup, Exchange

# a parameter group, those of its parameters that have a gradient, and the gradients
Members = tuple[dict[str, Any], list[Tensor], list[Tensor]]


def groups_to_perturb(param_groups: list[dict[str, Any]]) -> list[Members]:
    """Groups with rho > 0.

    Raises:
        ValueError: for sparse gradients, and complex ones in ASAM.
    """
    result = []
    for group in param_groups:
        if group["rho"] == 0.0:
            continue
        params, grads = with_gradients(group["params"])
        if group["adaptive"] or any([grad.is_sparse for grad in grads]):  # noqa: C419 - the faster here
            check_supported(grads, group["adaptive"])
        result.append((group, params, grads))
    return result


def ascent_norm(groups: list[Members], resting: list[Tensor], eta: float) -> float:
    """||g||, or ||T g|| where groups are adaptive: their gradients become T g.

    Args:
        groups: of `groups_to_perturb`.
        resting: further gradients that count.
        eta: ASAM's T = |w| + eta.
    """
    for group, params, grads in groups:
        if group["adaptive"] and grads:
            scale_for_asam(params, grads, eta)
    return global_norm([grad for _, _, grads in groups for grad in grads] + resting)


def climb(groups: list[Members], weights: Backup | Exchange, norm: float, eta: float) -> None:
    """w <- w + rho g / norm, or w + rho T (T g) / norm; a gradient that vanishes moves nothing.

    Args:
        groups: as `ascent_norm` left them.
        weights: adds, and knows how to come back.
        norm: of `ascent_norm`.
        eta: ASAM's.
    """
    for group, params, grads in groups:
        if params:
            if group["adaptive"]:
                scale_for_asam(params, grads, eta)
            weights.add(params, grads, group["rho"] / norm if norm > SMALLEST_NORM else 0.0)
