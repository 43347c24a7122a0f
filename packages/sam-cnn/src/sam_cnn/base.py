"""The base optimiser of a SAM, and the checks of its options."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

Variant = Literal["sam", "gsam", "looksam"]
VARIANTS = ("sam", "gsam", "looksam")
# foreach optimisers hold temporaries as large as the model, which must stay cheap
FOREACH_UP_TO = 1 << 22


def make_base(params: Any, base: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
    """The given optimiser, or one of the class `base`; a torch optimiser works on whole lists of tensors by default.

    Raises:
        ValueError: for a combination of arguments that has no meaning.
    """
    if isinstance(params, torch.optim.Optimizer):
        if base is not None or options:
            extra = base if base is not None else ", ".join(options)
            raise ValueError(f"SAM(optimizer) takes no base optimiser and none of its options besides, got {extra}")
        if isinstance(params, torch.optim.LBFGS):
            raise ValueError("LBFGS runs closures of its own and cannot be the base of SAM")
        if hasattr(params, "base_optimizer"):
            raise ValueError("SAM around SAM: give the base optimiser itself")
        return params
    if base is None:
        raise ValueError("SAM(params, base_optimizer, ...) needs a base optimiser, for example torch.optim.SGD")
    if isinstance(base, torch.optim.Optimizer):
        raise ValueError("base_optimizer is an instance: write SAM(optimizer, rho=...) without the parameters")
    if isinstance(base, type) and issubclass(base, torch.optim.LBFGS):
        raise ValueError("LBFGS runs closures of its own and cannot be the base of SAM")
    optimizer = base(params if isinstance(params, Tensor) else list(params), **options)
    _work_on_lists(optimizer)
    return optimizer


def _work_on_lists(optimizer: torch.optim.Optimizer) -> None:
    """Where python and not memory is the limit, and nothing was said: foreach has the same bits as torch's loop."""
    chosen = any(optimizer.defaults.get(name) for name in ("fused", "differentiable", "capturable"))
    size = sum(param.numel() for group in optimizer.param_groups for param in group["params"])
    if not type(optimizer).__module__.startswith("torch.optim") or chosen or size > FOREACH_UP_TO:
        return
    for settings in (optimizer.defaults, *optimizer.param_groups):
        if settings.get("foreach", False) is None and not settings.get("fused"):
            settings["foreach"] = True


def check_rho(rho: float) -> None:
    """Refuse a radius that is negative or not finite."""
    if not (isinstance(rho, int | float) and math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho must be a finite number >= 0, got {rho}")


def check_options(rho: float, eta: float, variant: str, interval: int | None, alpha: Any, norm_over: str) -> None:
    """Refuse options of `SAM` that cannot be."""
    check_rho(rho)
    if not (math.isfinite(eta) and eta >= 0):
        raise ValueError(f"eta must be a finite number >= 0, got {eta}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if interval is not None and (not isinstance(interval, int) or interval < 1):
        raise ValueError(f"interval must be an integer >= 1, got {interval}")
    if alpha is not None and (variant == "sam" or not math.isfinite(alpha)):
        raise ValueError(f"alpha belongs to gsam and looksam and must be finite, got {alpha} for {variant}")
    if norm_over not in ("perturbed", "all"):
        raise ValueError(f"norm_over must be perturbed or all, got {norm_over!r}")


def rho_from_lr(optimizer: torch.optim.Optimizer, rho: tuple[float, float], lr: tuple[float, float]) -> None:
    """GSAM's radius tied to the learning rate: rho_t = rho_min + (rho_max - rho_min)(lr_t - lr_min)/(lr_max - lr_min).

    Call it after the learning-rate scheduler.

    Args:
        optimizer: whose groups' rho is set.
        rho: rho_min, rho_max.
        lr: lr_min, lr_max of the schedule.

    Raises:
        ValueError: unless lr_max > lr_min.
    """
    if not lr[1] > lr[0]:
        raise ValueError(f"lr must be (lr_min, lr_max) with lr_max > lr_min, got {lr}")
    for group in optimizer.param_groups:
        group["rho"] = rho[0] + (rho[1] - rho[0]) * (float(group["lr"]) - lr[0]) / (lr[1] - lr[0])
        check_rho(group["rho"])
