"""Thresholded sign SGD as a torch optimiser, for any model."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor


def threshold_sign(v: Float[Tensor, "*shape"], rho: float) -> Float[Tensor, "*shape"]:
    """st(v) = sign(v) where |v| >= rho, else 0; NaN stays NaN, so that a broken gradient is not hidden."""
    return torch.where(v.abs() >= rho, torch.sign(v), 0 * v)


class ThresholdSignSGD(torch.optim.Optimizer):
    """w <- (1 - lr * weight_decay) w - lr * st(gradient): the decay is outside the sign (decoupled).

    A gradient entry smaller than `rho` does not move its weight, which then only decays: that dead zone is what lets
    irrelevant weights die. `rho` is in units of the mean loss gradient.

    Args:
        params: parameters or parameter groups.
        lr: learning rate eta, the size of every move.
        rho: half-width of the dead zone; 0 is sign SGD.
        weight_decay: lambda; lr * weight_decay <= 1.
        maximize: ascend instead.
        foreach: one fused call per group of tensors; by default wherever all parameters are on one device and type.

    Raises:
        InputError: for a value outside these ranges.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = ThresholdSignSGD(model.parameters(), lr=0.01, rho=1e-3, weight_decay=0.1)
        >>> model(torch.ones(2, 4)).mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        rho: float = 0.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
        super().__init__(params, defaults)
        for group in self.param_groups:
            _check_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own settings, as in every torch optimiser."""
        super().add_param_group(param_group)
        _check_group(self.param_groups[-1])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient; returns the closure's loss where one is given.

        Raises:
            InputError: for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in params):
                raise InputError("ThresholdSignSGD needs dense gradients, got a sparse one")
            if params:
                kinds = {(p.device, p.dtype, p.grad.dtype) for p in params}
                foreach = group["foreach"] if group["foreach"] is not None else len(kinds) == 1
                (_step_foreach if foreach else _step_each)(params, group)
        return loss


def _check_group(group: dict[str, Any]) -> None:
    lr, rho, decay = group["lr"], group["rho"], group["weight_decay"]
    if not lr >= 0:
        raise InputError(f"lr must not be negative, got {lr}")
    if not rho >= 0:
        raise InputError(f"rho must not be negative, got {rho}")
    if not decay >= 0 or lr * decay > 1:
        raise InputError(f"weight_decay must be in [0, 1/lr], got {decay} with lr = {lr}")


def _step_each(params: list[Tensor], group: dict[str, Any]) -> None:
    rate = group["lr"] if group["maximize"] else -group["lr"]
    for p in params:
        assert p.grad is not None
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(threshold_sign(p.grad, group["rho"]).to(p.dtype), alpha=rate)


def _step_foreach(params: list[Tensor], group: dict[str, Any]) -> None:
    rate = group["lr"] if group["maximize"] else -group["lr"]
    moves = [threshold_sign(p.grad, group["rho"]).to(p.dtype) for p in params if p.grad is not None]
    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_add_(params, moves, alpha=rate)
