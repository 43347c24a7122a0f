"""numpy arrays or torch tensors in, the same kind out; float64 inside."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from shared_core.errors import InputError
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def real(value: Any) -> Tensor:
    """A float64 tensor of `value`; float32 is widened before anything is exponentiated or summed.

    Raises:
        InputError: for complex numbers, of which half would be dropped.
    """
    if value.is_complex() if isinstance(value, Tensor) else isinstance(value, np.ndarray) and np.iscomplexobj(value):
        raise InputError("the values are complex numbers; give real ones")
    return torch.as_tensor(value, dtype=torch.float64)  # not via torch's default of float32


def like_input(function: F) -> F:
    """Let `function` of tensors take numpy arrays, and give numpy arrays back when it was given one."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if not any(isinstance(item, np.ndarray) for item in given):
            return function(*args, **kwargs)
        result = function(*map(_tensor, args), **{key: _tensor(item) for key, item in kwargs.items()})
        return result.numpy() if isinstance(result, Tensor) else result

    return call  # type: ignore[return-value]


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
