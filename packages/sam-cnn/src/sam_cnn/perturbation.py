"""The ascent: from gradients to the perturbed weights and back, on whole lists of tensors at once.

SAM: e = rho g / ||g||.  ASAM: e = rho T^2 g / ||T g|| with T = |w| + eta elementwise. One norm over all parameters.
No function here makes a copy of a gradient: ASAM scales the first pass's gradients, which nobody needs any
more, in place.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

# Below it a gradient counts as zero. Nothing is added to the norm: the ascent is then bit for bit the same whatever
# power of two a GradScaler has multiplied the loss by.
SMALLEST_NORM = 1e-30


Tensors = list[Tensor]
HALF = {torch.float16, torch.bfloat16}


def global_norm(tensors: Tensors) -> float:
    """The 2-norm over all tensors together, accumulated in at least float32; the one wait for the device in a step.

    Args:
        tensors: of any shapes, dtypes and devices; sharded ones (DTensor) count whole.
    """
    if not tensors:
        return 0.0
    half = not HALF.isdisjoint([tensor.dtype for tensor in tensors])
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32) if half else torch._foreach_norm(tensors)
    try:
        total = torch.linalg.vector_norm(torch.stack(norms))
    except RuntimeError:  # several devices or dtypes
        total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, torch.float64) for norm in norms]))
    # a sharded gradient's norm is a partial sum until it is asked for whole
    return float(total.full_tensor() if hasattr(total, "full_tensor") else total)


def with_gradients(params: Iterable[Tensor]) -> tuple[Tensors, Tensors]:
    """Those parameters that have a gradient, and the gradients (each asked for once: that makes a python object)."""
    kept, grads = [], []
    for param in params:
        grad = param.grad
        if grad is not None:
            kept.append(param)
            grads.append(grad)
    return kept, grads


def all_finite(tensors: Tensors) -> bool:
    """Whether no element is infinite or NaN."""
    dtypes = {tensor.dtype for tensor in tensors}
    on_cpu = all([tensor.is_cpu for tensor in tensors])  # noqa: C419 - the faster here
    if on_cpu and type(tensors[0]) is Tensor and len(dtypes) == 1 and dtypes.pop().is_floating_point:
        # GradScaler's kernel with a scale of 1: one call for all, on a CPU several times cheaper than a norm
        found, one = torch.zeros(()), torch.ones(())
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, one)
        return not found.item()
    return math.isfinite(global_norm(tensors))


def scale_for_asam(params: Tensors, grads: Tensors, buffers: Tensors, eta: float) -> None:
    """grads <- T g in place with T = |w| + eta; `buffers` are overwritten where eta > 0."""
    if eta == 0.0:
        # |w| and w differ by a sign, which neither the norm of T g nor T^2 g sees
        torch._foreach_mul_(grads, params)
        return
    copy_all(buffers, params)
    torch._foreach_abs_(buffers)
    torch._foreach_add_(buffers, eta)
    torch._foreach_mul_(grads, buffers)


def copy_all(targets: Tensors, sources: Tensors) -> None:
    """targets <- sources."""
    try:
        torch._foreach_copy_(targets, sources)
    except NotImplementedError:  # sharded tensors
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


class Backup:
    """One persistent copy of the weights, written before the ascent and copied back after the second pass.

    Copying back is exact whatever happened in between, and the storage of a parameter never changes, so that views,
    compiled graphs and process groups go on seeing it.
    """

    def __init__(self) -> None:
        self._buffers: dict[Tensor, Tensor] = {}
        self._last: tuple[list[int], list[torch.dtype], list[Tensor]] = ([], [], [])
        self._saved: tuple[list[Tensor], list[Tensor]] = ([], [])

    def buffers(self, params: Tensors) -> Tensors:
        """The buffers of `params`, made where missing or of another dtype or device."""
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

    def save(self, params: list[Tensor], buffers: list[Tensor]) -> None:
        """Copy the weights."""
        if params:
            copy_all(buffers, params)
        self._saved = (params, buffers)

    def restore(self) -> None:
        """Copy them back, bit for bit."""
        params, buffers = self._saved
        if params:
            copy_all(params, buffers)
        self._saved = ([], [])


def check_supported(grads: Iterable[Tensor], adaptive: bool) -> None:
    """Refuse what has no global norm or no |w|.

    Raises:
        ValueError: for a sparse gradient, and for a complex one in ASAM.
    """
    for grad in grads:
        if grad.layout is not torch.strided:
            raise ValueError(
                f"SAM needs dense gradients, got layout {grad.layout}: build the embedding with sparse=False, "
                "or optimise it outside SAM"
            )
        if adaptive and grad.is_complex():
            raise ValueError("adaptive=True is not defined for complex parameters; give their group adaptive=False")


def inner_product(left: Tensors, right: Tensors) -> float:
    """<left, right> over all tensors together (real part for complex ones)."""
    if not left:
        return 0.0
    terms = [torch.sum(a * b.conj()).real.double() for a, b in zip(left, right, strict=True)]
    return float(sum(term.to(terms[0].device) for term in terms))


def surrogate_gap_direction(first: Tensors, second: Tensors, alpha: float) -> None:
    """GSAM (Zhuang et al. 2022): second <- second - alpha (first - <first, second> / ||second||^2 second), in place.

    Args:
        first: gradient at the weights.
        second: gradient at the perturbed weights.
        alpha: weight of the part of `first` orthogonal to `second`.
    """
    squared = inner_product(second, second)
    ratio = inner_product(first, second) / squared if squared else 0.0
    torch._foreach_mul_(second, 1 + alpha * ratio)
    torch._foreach_add_(second, first, alpha=-alpha)


def sharpness_direction(first: Tensors, second: Tensors) -> list[Tensor]:
    """LookSAM (Liu et al. 2022): g_v = second - <second, first> / ||first||^2 first, what SAM adds to a gradient."""
    squared = inner_product(first, first)
    ratio = inner_product(second, first) / squared if squared else 0.0
    return list(torch._foreach_add(second, first, alpha=-ratio))


def reuse_direction(grads: Tensors, directions: Tensors, alpha: float) -> None:
    """LookSAM between two ascents: g <- g + alpha ||g|| / ||g_v|| g_v, in place; nothing where g_v = 0."""
    length = global_norm(directions)
    if length > 0.0:
        torch._foreach_add_(grads, directions, alpha=alpha * global_norm(grads) / length)


def clip(grads: Tensors, limit: float) -> float:
    """Scale gradients down to a joint norm of at most `limit`; the norm before."""
    norm = global_norm(grads)
    if math.isfinite(norm) and norm > limit:
        torch._foreach_mul_(grads, limit / (norm + 1e-6))
    return norm
