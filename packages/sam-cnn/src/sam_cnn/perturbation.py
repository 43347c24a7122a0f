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
# Below it the squares of float32 elements lose digits (from 1e-19 on) or vanish (from 1e-23 on), with a margin for
# tensors of 10^9 elements and for devices without subnormal numbers.
SAFE_NORM = 1e-10
ENLARGE = 2.0**64  # a power of two: nothing is rounded


Tensors = list[Tensor]
HALF = {torch.float16, torch.bfloat16}


def global_norm(tensors: Tensors) -> float:
    """The 2-norm over all tensors together, accumulated in at least float32; the one wait for the device in a step.

    A norm below 1e-10 is taken a second time, of enlarged copies, since the squares of such elements underflow.

    Args:
        tensors: of any shapes, dtypes and devices; sharded ones (DTensor) count whole.
    """
    if not tensors:
        return 0.0
    norm = _norm(tensors)
    return norm if norm >= SAFE_NORM or math.isnan(norm) else _norm(enlarged(tensors)) / ENLARGE


def enlarged(tensors: Tensors) -> Tensors:
    """Copies of small tensors, multiplied by 2^64 without rounding."""
    return list(torch._foreach_mul(tensors, ENLARGE))


def _norm(tensors: Tensors) -> float:
    half = not HALF.isdisjoint([tensor.dtype for tensor in tensors])
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32) if half else torch._foreach_norm(tensors)
    if all([type(norm) is Tensor and norm.is_cpu for norm in norms]):  # noqa: C419 - the faster here
        return math.hypot(*[norm.item() for norm in norms])  # nothing to wait for, and one kernel less to load
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


class FiniteCheck:
    """Holds what GradScaler's kernel reads and writes, so that a check makes no tensor."""

    def __init__(self) -> None:
        self._found, self._one = (torch.full((), value, dtype=torch.float32, device="cpu") for value in (0.0, 1.0))

    def __call__(self, tensors: Tensors) -> bool:
        """Whether no element is infinite or NaN."""
        dtypes = {tensor.dtype for tensor in tensors}
        on_cpu = all([tensor.is_cpu for tensor in tensors])  # noqa: C419 - the faster here
        if not on_cpu or type(tensors[0]) is not Tensor or len(dtypes) > 1 or not dtypes.pop().is_floating_point:
            return math.isfinite(global_norm(tensors))
        # with a scale of 1: one call for all, on a CPU several times cheaper than a norm
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, self._found, self._one)
        finite = not self._found.item()
        if not finite:
            self._found.zero_()
        return finite


def scale_for_asam(params: Tensors, grads: Tensors, eta: float) -> None:
    """grads <- T g in place with T = |w| + eta."""
    factors = params  # |w| and w differ by a sign, which neither the norm of T g nor T^2 g sees
    if eta:
        factors = list(torch._foreach_abs(params))
        torch._foreach_add_(factors, eta)
    torch._foreach_mul_(grads, factors)


def copy_all(targets: Tensors, sources: Tensors) -> None:
    """targets <- sources."""
    try:
        torch._foreach_copy_(targets, sources)
    except NotImplementedError:  # sharded tensors
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


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


def clip(grads: Tensors, limit: float) -> float:
    """Scale gradients down to a joint norm of at most `limit`; the norm before."""
    norm = global_norm(grads)
    if math.isfinite(norm) and norm > limit:
        torch._foreach_mul_(grads, limit / (norm + 1e-6))
    return norm
