"""The ascent's step and the way back from it, bit for bit: weights copied aside, or pointers exchanged.

Both compute w + s g by the same kernel, so that they give the same bits.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version

from sam_cnn.perturbation import Tensors, copy_all

Restore = Literal["copy", "pointer"]


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

    def add(self, params: Tensors, grads: Tensors, step: float) -> None:
        """w <- w + step g."""
        torch._foreach_add_(params, grads, alpha=step)

    def restore(self) -> None:
        """Copy them back, bit for bit."""
        params, buffers = self._saved
        if params:
            copy_all(params, buffers)
        self._saved = ([], [])


class Exchange:
    """Parameters point to other memory, where w + step g is, and after the second pass to their own again.

    Their own memory is never written. Whoever looks at it in the second pass (a view of a parameter) sees w. No
    compiler may trace this: it would take pointers for values.
    """

    def __init__(self) -> None:
        self._moved: list[tuple[Tensors, Tensors, Tensors]] = []
        self._held: list[tuple[Tensors, Tensors, Tensors]] = []
        self._checked = False

    def save(self, params: Tensors) -> None:
        """Nothing is copied.

        Raises:
            ValueError: in a process group.
        """
        if not self._checked:  # the optimiser may have been built before the process group
            _check_one_process()
            self._checked = True
        self._held = []

    @_disable_dynamo
    def add(self, params: Tensors, grads: Tensors, step: float) -> None:
        """Point to w + step g."""
        weights = [param.data for param in params]
        moved = list(torch._foreach_add(weights, grads, alpha=step))
        self._moved.append((params, weights, moved))
        for param, there in zip(params, moved, strict=True):
            param.data = there
        increment_version(params)  # as a change in place does: a backward pass through what was computed at w fails

    @_disable_dynamo
    def restore(self) -> None:
        """Point back; a parameter that was moved or converted meanwhile gets its weights copied."""
        for params, weights, moved in self._moved:
            for param, own, there in zip(params, weights, moved, strict=True):
                if param.data_ptr() == there.data_ptr():
                    param.data = own
                else:
                    param.copy_(own)
            increment_version(params)
        # released in the next step: an allocator that gets back two models at once returns them to the system
        self._held, self._moved = self._moved, []


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
    storages = [tensor.untyped_storage()._cdata for tensor in seen.values() if tensor.numel()]
    if len(set(storages)) < len(storages):
        raise ValueError(
            "restore='pointer' with two tensors in one memory (a view, tied weights of two names, flattened recurrent "
            "layers, a mapped file); use restore='copy', or tie by using one parameter twice"
        )
