"""GSAM and LookSAM: what becomes of the two gradients of a step, and what is kept for the next ones."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sam_cnn.perturbation import HALF, SAFE_NORM, FiniteCheck, Tensors, enlarged, global_norm, with_gradients

Variant = Literal["sam", "gsam", "looksam"]
DEFAULT_ALPHA = {"sam": 0.0, "gsam": 0.4, "looksam": 0.7}


def inner_product(left: Tensors, right: Tensors) -> float:
    """<left, right> over all tensors together (real part for complex ones), accumulated in at least float32."""
    total = 0.0
    for a, b in zip(left, right, strict=True):
        if a.dtype in HALF:
            a, b = a.float(), b.float()
        term = torch.sum(a * b.conj()).real
        # a sharded gradient's sum is partial until it is asked for whole
        total += float(term.full_tensor() if hasattr(term, "full_tensor") else term)
    return total


def projection(left: Tensors, onto: Tensors) -> float:
    """<left, onto> / ||onto||^2; 0 where `onto` vanishes."""
    squared = inner_product(onto, onto)
    if squared < SAFE_NORM**2:  # products of so small numbers underflow
        onto = enlarged(onto)
        squared = inner_product(onto, onto)
        if not squared:
            return 0.0
        left = enlarged(left)
    return inner_product(left, onto) / squared


def surrogate_gap_direction(first: Tensors, second: Tensors, alpha: float) -> None:
    """GSAM (Zhuang et al. 2022): second <- second - alpha (first - <first, second> / ||second||^2 second), in place.

    Args:
        first: gradient at the weights.
        second: gradient at the perturbed weights.
        alpha: weight of the part of `first` orthogonal to `second`.
    """
    torch._foreach_mul_(second, 1 + alpha * projection(first, second))
    torch._foreach_add_(second, first, alpha=-alpha)


def sharpness_direction(first: Tensors, second: Tensors) -> list[Tensor]:
    """LookSAM (Liu et al. 2022): g_v = second - <second, first> / ||first||^2 first, what SAM adds to a gradient."""
    return list(torch._foreach_add(second, first, alpha=-projection(second, first)))


def reuse_direction(grads: Tensors, directions: Tensors, alpha: float) -> None:
    """LookSAM between two ascents: g <- g + alpha ||g|| / ||g_v|| g_v, in place; nothing where g_v = 0."""
    length = global_norm(directions)
    if length > 0.0:
        torch._foreach_add_(grads, directions, alpha=alpha * global_norm(grads) / length)


class GradientPair:
    """Turns the gradient of the second pass into the direction in which a variant descends.

    Args:
        variant: sam leaves it as it is.
        alpha: of gsam and looksam.

    Attributes:
        directions: LookSAM's g_v of the last ascent, by parameter.
    """

    def __init__(self, variant: Variant, alpha: float) -> None:
        self.variant, self.alpha = variant, alpha
        self.directions: dict[Tensor, Tensor] = {}
        self.forget()

    def forget(self) -> None:
        """Drop the gradients of an unfinished step."""
        self._first: tuple[Tensors, Tensors] = ([], [])

    def keep(self, params: Tensors, grads: Tensors) -> None:
        """Copy the gradients of the first pass, where the variant wants them."""
        if self.variant != "sam":
            self._first = (params, [grad.clone() for grad in grads])

    def turn(self) -> None:
        """After the second pass: change the gradients in place."""
        params, first = self._first
        if not params:
            return
        self.forget()
        pairs = [(param, grad, param.grad) for param, grad in zip(params, first, strict=True) if param.grad is not None]
        if not pairs:
            return
        kept, old, new = ([pair[index] for pair in pairs] for index in range(3))
        if self.variant == "gsam":
            surrogate_gap_direction(old, new, self.alpha)
        else:
            directions = sharpness_direction(old, new)
            if FiniteCheck()(directions):
                self.directions = dict(zip(kept, directions, strict=True))

    def turn_single(self) -> None:
        """After the one pass of a step without an ascent."""
        if self.variant == "looksam":
            kept, grads = with_gradients(self.directions)
            if kept:
                reuse_direction(grads, [self.directions[param] for param in kept], self.alpha)

    def by_index(self, params: Sequence[Tensor]) -> dict[int, Tensor]:
        """Directions for a checkpoint."""
        return {index: self.directions[param] for index, param in enumerate(params) if param in self.directions}

    def load(self, params: Sequence[Tensor], directions: Mapping[Any, Tensor]) -> None:
        """Take those of `by_index`, on each parameter's device."""
        self.directions = {
            params[int(index)]: value.to(params[int(index)], copy=True) for index, value in directions.items()
        }
