"""Arguments that are wrong in the same way everywhere: one clear line each."""

import math
from typing import Any

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor


def check_length(name: str, length: float, infinite: bool = False) -> float:
    """A context length: an integer of at least 1, or infinity where `infinite` allows it.

    Raises:
        InputError: for anything else.
    """
    if infinite and length == math.inf:
        return length
    if isinstance(length, bool) or not isinstance(length, int | float) or not math.isfinite(length) or length < 1:
        raise InputError(f"{name} must be at least 1 context example, got {length}")
    if length != int(length):
        raise InputError(f"{name} must be a whole number of context examples, got {length}")
    return int(length)


def check_count(name: str, value: int, least: int = 1) -> int:
    """A whole number of at least `least`.

    Raises:
        InputError: for anything else.
    """
    whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not whole or value != int(value) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value}")
    return int(value)


def check_positive(name: str, value: float, zero: bool = False) -> float:
    """A finite number above zero (or at least zero).

    Raises:
        InputError: for anything else.
    """
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise InputError(f"{name} must be a finite number {'of at least' if zero else 'above'} 0, got {value}")
    return float(value)


def check_shape(name: str, tensor: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """A tensor of `shape`, in which None matches anything.

    Raises:
        InputError: if the shape differs.
    """
    same = tensor.dim() == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not same:
        expected = " x ".join("any" if item is None else str(item) for item in shape)
        raise InputError(f"{name} must have shape {expected}, got {' x '.join(map(str, tensor.shape)) or 'a scalar'}")
    return tensor


def check_eigenvalues(name: str, eigenvalues: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """A covariance spectrum: finite and above zero.

    Raises:
        InputError: naming the first entry that is not.
    """
    if eigenvalues.dim() != 1 or eigenvalues.numel() == 0:
        raise InputError(f"{name} must be a list of eigenvalues, got shape {tuple(eigenvalues.shape)}")
    bad = ~(torch.isfinite(eigenvalues) & (eigenvalues > 0))
    if bool(bad.any()):
        place = int(bad.nonzero()[0])
        raise InputError(
            f"{name} must have finite eigenvalues above 0, entry {place + 1} is {float(eigenvalues[place]):g}"
            " (leave out directions without variance: they carry no risk)"
        )
    return eigenvalues
