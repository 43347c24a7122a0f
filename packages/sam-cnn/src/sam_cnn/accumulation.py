"""One SAM step over several micro-batches: the exact step of the large batch, or m-SAM.

full:   e from the mean gradient of all micro-batches, then all of them again at w + e (2k passes).
micro:  e from each micro-batch's own gradient, second gradients averaged (m-sharpness, Foret et al. 2021), also 2k
        passes; each micro-batch can be forgotten after its two.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from sam_cnn.sam import SAM

Batch = TypeVar("Batch")


def sam_step(
    optimizer: SAM,
    loss_fn: Callable[[Batch], Tensor],
    micro_batches: Sequence[Batch],
    *,
    ascent: Literal["full", "micro"] = "full",
    weights: Sequence[float] | None = None,
    backward: Callable[[Tensor], None] | None = None,
    scaler: Any = None,
    clip_norm: float | None = None,
) -> float:
    """Take one step over `micro_batches`.

    Args:
        optimizer: built with `model=` where the model is DistributedDataParallel: gradients are then exchanged once a
            pass (`full`) or with the last micro-batch (`micro`).
        loss_fn: the mean loss over one micro-batch.
        micro_batches: what `loss_fn` takes.
        ascent: see the head of this module.
        weights: share of each micro-batch in the loss; by default in proportion to the first dimension of its first
            tensor, equal where there is none.
        backward: in place of `loss.backward()`, for example `accelerator.backward` (which must not divide by
            accumulation steps of its own).
        scaler: a GradScaler; `scaler.update()` stays with you.
        clip_norm: largest norm of the gradient that descends.

    Returns:
        The loss at the weights before the step, averaged with the weights.

    Raises:
        ValueError: for no micro-batch, weights of another number, a loss without a gradient, or a variant that mixes
            the gradients of both passes together with `micro`.
    """
    if not micro_batches:
        raise ValueError("micro_batches is empty: a step needs at least one")
    if ascent == "micro" and optimizer.variant != "sam":
        raise ValueError(f"ascent='micro' is m-SAM and goes with variant 'sam', not {optimizer.variant!r}")
    shares = _shares(micro_batches, weights)

    def descend_on(batch: Batch, share: float) -> Tensor:
        loss = loss_fn(batch) * share
        if not loss.requires_grad:
            raise ValueError(
                "loss_fn returned a loss without a gradient: is the forward pass under no_grad, or frozen?"
            )
        scaled = scaler.scale(loss) if scaler is not None else loss
        (backward or Tensor.backward)(scaled)
        return loss.detach()

    if ascent == "micro" and optimizer.climbs:
        return _micro(optimizer, descend_on, micro_batches, shares, scaler, clip_norm)
    if ascent not in ("full", "micro"):
        raise ValueError(f"ascent must be full or micro, got {ascent!r}")

    def closure() -> float:
        total = 0.0
        for batch, share, last in _with_last(micro_batches, shares):
            with _no_sync(optimizer, not last):
                total += float(descend_on(batch, share))
        return total

    return optimizer.step(closure, scaler=scaler, clip_norm=clip_norm)


def _micro(
    optimizer: SAM, descend_on: Any, micro_batches: Sequence[Any], shares: list[float], scaler: Any, clip: float | None
) -> float:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    held: list[Tensor | None] = [None] * len(params)
    total, skipped = 0.0, None
    for batch, share, last in _with_last(micro_batches, shares):
        optimizer.zero_grad()
        if optimizer.same_rng:
            optimizer.record_rng()
        with _no_sync(optimizer, not optimizer.sync_ascent):
            total += float(descend_on(batch, share))
        with optimizer.ascend(), torch.enable_grad():
            for param, gradient in zip(params, held, strict=True):
                param.grad = gradient  # the second gradient is added, and exchanged together with the last one
            with _no_sync(optimizer, not last):
                descend_on(batch, share)
        skipped = skipped or optimizer.last_skip
        held = [param.grad for param in params]
    optimizer.last_skip = skipped
    optimizer.second_step(scaler=scaler, clip_norm=clip)
    return total


def _no_sync(optimizer: SAM, off: bool) -> AbstractContextManager[Any]:
    model = optimizer.model
    return model.no_sync() if off and hasattr(model, "no_sync") else nullcontext()  # type: ignore[union-attr, operator]


def _with_last(batches: Sequence[Any], shares: Sequence[float]) -> Iterator[tuple[Any, float, bool]]:
    for index, (batch, share) in enumerate(zip(batches, shares, strict=True)):
        yield batch, share, index == len(batches) - 1


def _shares(batches: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        sizes = [_size(batch) for batch in batches]
        weights = [1.0] * len(batches) if None in sizes else [float(size) for size in sizes if size is not None]
    if len(weights) != len(batches) or not sum(weights) > 0 or min(weights) < 0:
        raise ValueError(f"weights must be {len(batches)} numbers >= 0 with a sum > 0, got {list(weights)}")
    return [weight / sum(weights) for weight in weights]


def _size(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    if isinstance(batch, dict):
        batch = list(batch.values())
    return _size(batch[0]) if isinstance(batch, list | tuple) and batch else None
