"""The ascent's step and the way back from it, bit for bit: weights copied aside, or pointers exchanged.

Both compute w + s g by the same kernel, so that they give the same bits.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from sam_cnn.perturbation import Tensors, copy_all

Restore = Literal["copy", "pointer"]
# elements from which on an exchange costs less than two copies, which go through whole lists in one call
EXCHANGE_FROM = 1 << 16


class Backup:
    """One persistent copy of the weights, written before the ascent and copied back after the second pass.

    Copying back is exact whatever happened in between, and the storage of a parameter never changes, so that views,
    compiled graphs and process groups go on seeing it.
    """

    def __init__(self) -> None:
        self._buffers: dict[Tensor, Tensor] = {}
        self._last: tuple[list[int], list[torch.dtype], Tensors] = ([], [], [])
        self._saved: tuple[Tensors, Tensors] = ([], [])

    def _buffers_of(self, params: Tensors) -> Tensors:
        """Made where missing or of another dtype or device."""
        ids = list(map(id, params))
        dtypes = [param.dtype for param in params]
        moved = params and self._last[2] and params[0].device != self._last[2][0].device
        if moved or (ids, dtypes) != self._last[:2]:
            self._last = (ids, dtypes, [self._buffer(param) for param in params])
        return self._last[2]

    def _buffer(self, param: Tensor) -> Tensor:
        buffer = self._buffers.get(param)
        if buffer is None or (buffer.dtype, buffer.device) != (param.dtype, param.device):
            buffer = self._buffers[param] = torch.empty_like(param, requires_grad=False)
        return buffer

    def save(self, params: Tensors) -> None:
        """Copy the weights."""
        buffers = self._buffers_of(params)
        if params:
            copy_all(buffers, params)
        self._saved = (params, buffers)

    def add(self, params: Tensors, grads: Tensors, step: float, spent: bool) -> None:
        """w <- w + step g."""
        torch._foreach_add_(params, grads, alpha=step)

    def restore(self) -> None:
        """Copy them back, bit for bit."""
        params, buffers = self._saved
        if params:
            copy_all(params, buffers)
        self._saved = ([], [])


class Exchange:
    """Large parameters point to other memory, where w + step g is, and after the second pass to their own again.

    None of their weights is copied: w + step g takes the memory of the gradient, which nobody needs any more. Whoever
    looks at such a parameter's own memory in the second pass (a view of it) sees w. Small ones are copied.
    """

    def __init__(self) -> None:
        self._small = Backup()
        self._large = False
        self._moved: list[tuple[Tensor, Tensor, Tensor]] = []
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []
        self._checked = False

    def save(self, params: Tensors) -> None:
        """Copy the small ones.

        Raises:
            ValueError: in a process group.
        """
        if not self._checked:  # the optimiser may have been built before the process group
            _check_one_process()
            self._checked = True
        self._held = []
        small = [param for param in params if param.numel() < EXCHANGE_FROM]
        self._small.save(small)
        self._large = len(small) < len(params)

    def add(self, params: Tensors, grads: Tensors, step: float, spent: bool) -> None:
        """Point to w + step g, which takes the gradients' memory where they are spent."""
        if self._large:
            pairs = list(zip(params, grads, strict=True))
            for param, grad in pairs:
                if param.numel() >= EXCHANGE_FROM:
                    self._exchange(param, grad, step, spent)
            small = [pair for pair in pairs if pair[0].numel() < EXCHANGE_FROM]
            params, grads = [param for param, _ in small], [grad for _, grad in small]
        if params:
            self._small.add(params, grads, step, spent)

    def _exchange(self, param: Tensor, grad: Tensor, step: float, spent: bool) -> None:
        weights = param.data
        moved = torch.add(weights, grad, alpha=step, out=grad if spent and _may_hold(grad, weights) else None)
        self._moved.append((param, weights, moved))
        param.data = moved
        increment_version(param)  # as a change in place does: a backward pass through what was computed at w fails

    def restore(self) -> None:
        """Point and copy back; large weights that were moved or converted meanwhile are copied too."""
        self._small.restore()
        for param, weights, moved in self._moved:
            if param.data_ptr() == moved.data_ptr():
                param.data = weights
                increment_version(param)
            else:
                param.copy_(weights)
        # released in the next step: an allocator that gets back two models at once returns them to the system
        self._held, self._moved = self._moved, []


def _may_hold(grad: Tensor, weights: Tensor) -> bool:
    """Whether the gradient's memory is its own and laid out as the weights are."""
    dtype = grad.dtype
    return (
        dtype == weights.dtype
        and grad.stride() == weights.stride()
        and not grad._is_view()
        and not dtype.is_complex  # it may be marked as a conjugate instead of being one
    )


def _check_one_process() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        raise ValueError(
            "restore='pointer' is for one process: DistributedDataParallel and sharding hold the memory of parameters "
            "and gradients; use restore='copy'"
        )


def check_exchange(params: Iterable[Tensor], model: nn.Module | None) -> None:
    """Refuse to exchange pointers where somebody else would notice.

    Args:
        params: those of the optimiser.
        model: where given, its other parameters and its buffers are looked at too.

    Raises:
        ValueError: in a process group, for parameters that are not plain tensors, and for memory that is shared.
    """
    _check_one_process()
    for param in params:
        if type(param) not in (Tensor, nn.Parameter):
            raise ValueError(f"restore='pointer' needs plain tensors, got a {type(param).__name__}; use restore='copy'")
    others = [] if model is None else [*model.parameters(), *model.buffers()]
    seen = {id(tensor): tensor for tensor in [*params, *others] if type(tensor) in (Tensor, nn.Parameter)}
    extents = sorted(_extent(tensor) for tensor in seen.values() if tensor.numel() and tensor.device.type != "meta")
    if any(start < end for (_, end), (start, _) in pairwise(extents)):
        raise ValueError("restore='pointer' with two tensors in the same memory (a view, tied weights of two names); "
                         "use restore='copy', or tie by using one parameter twice")  # fmt: skip


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and last byte."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()
