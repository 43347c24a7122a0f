"""Real categorical data that come with scikit-learn: small patches of handwritten digits."""

import torch
from jaxtyping import Int
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.arrays import real
from ctmc_bounds.checks import check_enumerable, check_tokens
from ctmc_bounds.data_laws import TableData
from ctmc_bounds.spaces import EnumeratedSpace


def digit_patches(rows: int = 3, cols: int = 3, levels: int = 2, top: int = 2, left: int = 2) -> Int[Tensor, "n d"]:
    """A patch of each of the 1,797 digits of 8 x 8 pixels, its 17 grey levels cut into `levels` equal ranges.

    Raises:
        InputError: for a patch outside the picture, or levels outside 2..17.
    """
    from sklearn.datasets import load_digits

    if rows < 1 or cols < 1 or top < 0 or left < 0 or top + rows > 8 or left + cols > 8:
        raise InputError(f"patch of {rows} x {cols} at ({top}, {left}) leaves the picture of 8 x 8 pixels")
    if not 2 <= levels <= 17:
        raise InputError(f"levels = {levels}: grey values are 0..16, give 2..17 levels")
    images = torch.from_numpy(load_digits().images[:, top : top + rows, left : left + cols])
    return (images * levels / 17).long().reshape(len(images), -1)


def empirical(x: Int[Tensor, "n d"], S: int, smoothing: float = 0.0) -> TableData:
    """The empirical law of tokens as a table; `smoothing` of its mass is spread uniformly (0: none).

    Raises:
        InputError: for tokens out of range, no tokens, too many states, or smoothing outside [0, 1].
    """
    if not 0 <= smoothing <= 1:
        raise InputError(f"smoothing = {smoothing} is a share of the mass, give 0..1")
    if x.ndim != 2 or len(x) == 0:
        raise InputError(f"tokens have shape {tuple(x.shape)}; expected (n, d) with n >= 1")
    x = check_tokens(x, S, x.shape[1])
    n = check_enumerable(S, x.shape[1])
    space = EnumeratedSpace(S, x.shape[1])
    counts = real(torch.bincount(space.number(x), minlength=n))
    return TableData((1 - smoothing) * counts / len(x) + smoothing / n, S, x.shape[1])
