"""Which parameters climb, along what, and how far."""

from typing import Any

import torch
from torch import Tensor

from sam_cnn.perturbation import SMALLEST_NORM, check_supported, global_norm, scale_for_asam, with_gradients

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


def ascent_norm(groups: list[Members], resting: list[Tensor], buffers: list[Tensor], eta: float) -> float:
    """||g||, or ||T g|| where groups are adaptive: their gradients become T g.

    Args:
        groups: of `groups_to_perturb`.
        resting: further gradients that count.
        buffers: one for each parameter, overwritten where eta > 0.
        eta: ASAM's T = |w| + eta.
    """
    offset = 0
    for group, params, grads in groups:
        if group["adaptive"] and grads:
            scale_for_asam(params, grads, buffers[offset : offset + len(params)], eta)
        offset += len(params)
    return global_norm([grad for _, _, grads in groups for grad in grads] + resting)


def climb(groups: list[Members], saved: list[Tensor], norm: float, eta: float) -> None:
    """w <- w + rho g / norm, or w + rho T (T g) / norm; a gradient that vanishes moves nothing.

    Args:
        groups: as `ascent_norm` left them.
        saved: the weights, one buffer for each parameter.
        norm: of `ascent_norm`.
        eta: ASAM's.
    """
    offset = 0
    for group, params, grads in groups:
        if not params:
            continue
        if group["adaptive"]:
            factors = saved[offset : offset + len(params)]
            if eta:
                factors = list(torch._foreach_abs(factors))
                torch._foreach_add_(factors, eta)
            torch._foreach_mul_(grads, factors)
        torch._foreach_add_(params, grads, alpha=group["rho"] / norm if norm > SMALLEST_NORM else 0.0)
        offset += len(params)
