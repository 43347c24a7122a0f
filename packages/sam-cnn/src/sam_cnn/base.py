"""The base optimiser of a SAM, and the checks of its options."""

import inspect
import math
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sam_cnn.restoring import Restore
from sam_cnn.variants import Variant

MIGRATION = "Three lines from davda54/sam or pytorch_optimizer"  # a heading of the README
VARIANTS, RESTORES = get_args(Variant), get_args(Restore)
# foreach optimisers hold temporaries as large as the model, which must stay cheap, and go through all of it once an
# operation, which with large tensors costs more than python's loop
FOREACH_UP_TO, FOREACH_MEAN_UP_TO = 1 << 22, 1 << 14


def make_base(params: Any, base: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
    """The given optimiser, or one of the class `base`; a torch optimiser works on whole lists of tensors by default.

    Raises:
        ValueError: for a combination of arguments that has no meaning.
        TypeError: for an option that neither SAM nor the base optimiser has.
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
    if not callable(base):
        raise ValueError(f"base_optimizer must be an optimiser's class, for example torch.optim.SGD, got {base!r}")
    if isinstance(base, type) and issubclass(base, torch.optim.LBFGS):
        raise ValueError("LBFGS runs closures of its own and cannot be the base of SAM")
    if isinstance(params, nn.Module):
        raise ValueError("params is a module: give its parameters(), and the module as model=")
    _check_names(base, options)
    optimizer = base(params if isinstance(params, Tensor) else list(params), **options)
    _work_on_lists(optimizer)
    return optimizer


def _check_names(base: Any, options: dict[str, Any]) -> None:
    try:
        accepted = inspect.signature(base).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return
    unknown = [name for name in options if name not in accepted]
    if unknown and not any(item.kind is item.VAR_KEYWORD for item in accepted.values()):
        raise TypeError(
            f"neither SAM nor {getattr(base, '__name__', base)} has an option {unknown[0]!r}; for options of other SAM "
            f"implementations see the README of sam-cnn, {MIGRATION!r}"
        )


def _work_on_lists(optimizer: torch.optim.Optimizer) -> None:
    """Where python and not memory is the limit, and nothing was said: foreach has the same bits as torch's loop."""
    chosen = any(optimizer.defaults.get(name) for name in ("fused", "differentiable", "capturable"))
    sizes = [param.numel() for group in optimizer.param_groups for param in group["params"]]
    too_large = sum(sizes) > min(FOREACH_UP_TO, FOREACH_MEAN_UP_TO * len(sizes))
    if not type(optimizer).__module__.startswith("torch.optim") or chosen or too_large:
        return
    for settings in (optimizer.defaults, *optimizer.param_groups):
        if settings.get("foreach", False) is None and not settings.get("fused"):
            settings["foreach"] = True


def check_rho(rho: float) -> None:
    """Refuse a radius that is negative or not finite."""
    if not _is_length(rho):
        raise ValueError(f"rho must be a finite number >= 0, got {rho!r}")


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def check_options(
    rho: float, eta: float, variant: str, interval: int | None, alpha: Any, norm_over: str, model: Any, restore: Any
) -> None:
    """Refuse options of `SAM` that cannot be."""
    check_rho(rho)
    if not _is_length(eta):
        raise ValueError(f"eta must be a finite number >= 0, got {eta!r}")
    if model is not None and not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {model!r}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if interval is not None and (not isinstance(interval, int) or interval < 1):
        raise ValueError(f"interval must be an integer >= 1, got {interval}")
    if alpha is not None and (variant == "sam" or not math.isfinite(alpha)):
        raise ValueError(f"alpha belongs to gsam and looksam and must be finite, got {alpha} for {variant}")
    if norm_over not in ("perturbed", "all"):
        raise ValueError(f"norm_over must be perturbed or all, got {norm_over!r}")
    if restore not in RESTORES:
        raise ValueError(f"restore must be copy or pointer, got {restore!r}")


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
