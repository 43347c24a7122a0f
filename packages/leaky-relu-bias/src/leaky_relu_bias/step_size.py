"""The step size, in the units of the theory: n m / R_max^2."""

import logging
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.orthogonality import TrainingSet

log = logging.getLogger(__name__)
Eta = float | Literal["auto"] | Sequence[float]
# eta = AUTO_STEP n m / R_max^2 where the user names none
AUTO_STEP = 0.2
# On orthogonal data the Hessian's norm is at most R_max^2 / (2 n m), so descent is stable up to 4 n m / R_max^2.
STABLE_STEP = 4.0


def step_sizes(data: TrainingSet, nets: Sequence[TwoLayerNet], eta: Eta) -> Float[Tensor, " runs"]:
    """One step size a network; warns beyond the stable range of orthogonal data.

    Raises:
        InputError: unless every eta is finite and positive, one for each network.
    """
    scale = data.step_scale(nets[0].m)
    if isinstance(eta, str):
        if eta != "auto":
            raise InputError(f'the learning rate eta must be a positive number or "auto", got {eta!r}')
        eta = AUTO_STEP * scale
    sizes = [float(eta)] * len(nets) if isinstance(eta, int | float) else [float(value) for value in eta]
    if len(sizes) != len(nets):
        raise InputError(
            f"the learning rate eta must be one number or one for each of the {len(nets)} networks, got {len(sizes)}"
        )
    for size in sizes:
        if not (math.isfinite(size) and size > 0):
            raise InputError(f"the learning rate eta must be a finite number > 0, got {size}")
    if max(sizes) > STABLE_STEP * scale:
        log.warning(
            "eta = %.4g is beyond %g n m / R_max^2 = %.4g: the loss may not fall monotonically",
            max(sizes), STABLE_STEP, STABLE_STEP * scale,
        )  # fmt: skip
    return torch.tensor(sizes, dtype=data.X.dtype, device=data.X.device)
