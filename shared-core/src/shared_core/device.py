"""Devices: choosing, describing, seeding, precision. torch is imported on first use."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

from shared_core.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]


def available_devices() -> list[str]:
    """Names that `resolve_device` accepts here, best first, `cpu` always among them."""
    import torch

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto|cpu|cuda|cuda:N|mps` into a device that exists here.

    `auto` takes the first of CUDA, MPS, CPU. A named device is never replaced by another.

    Raises:
        InputError: if the name is not of that form, or the device is not there (the message lists what is).
    """
    import torch

    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    if name == "cuda" and any(device.startswith("cuda") for device in there):
        return torch.device("cuda", torch.cuda.current_device())
    if name in there:
        return torch.device(name)
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise InputError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    raise InputError(f"device {name!r} is not available here; available: {', '.join(there)}")


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Let torch use one thread inside, process wide, and as many as before after it.

    For work whose kernels last microseconds: waking a pool of threads for each costs many times that.

    Args:
        when: False does nothing.
    """
    import torch

    before = torch.get_num_threads()
    if not when or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_device(device: torch.device) -> str:
    """One line: what the work runs on, for logs and `config.yaml`."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads of {os.cpu_count()} cores)"
    return str(device)


def check_seed(seed: int) -> None:
    """Refuse a seed that numpy could not take, before any work is done.

    Raises:
        InputError: unless 0 <= seed < 2**32.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be in 0..2**32-1, got {seed}")


def seed_everything(seed: int, device: str | torch.device = "cpu", deterministic: bool = False) -> torch.Generator:
    """Seed python, numpy and torch, and return a generator on `device` for the caller's own draws.

    Args:
        seed: 0 <= seed < 2**32 (numpy's range).
        device: where the returned generator lives.
        deterministic: refuse kernels whose result depends on the order of threads (slower on CUDA).

    Raises:
        InputError: if the seed is out of range.
    """
    import numpy as np
    import torch

    check_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries that draw from the global generator are seeded too
    torch.manual_seed(seed)
    if deterministic:
        # cuBLAS reads this when its handle is made; without it deterministic matmul raises.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    return torch.Generator(device=device).manual_seed(seed)


def default_precision(device: torch.device) -> Precision:
    """bfloat16 where the hardware computes it natively, float32 elsewhere (float16 is left to the user)."""
    import torch

    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(device: torch.device, precision: Precision = "float32") -> AbstractContextManager[object]:
    """Mixed precision for the forward pass; `float32` is no autocast at all.

    Raises:
        InputError: for float16 on a CPU, which torch can autocast but not fast, and which overflows without scaling.
    """
    import torch

    if precision == "float32":
        return nullcontext()
    if precision == "float16" and device.type == "cpu":
        raise InputError("precision float16 needs a GPU; on a CPU use bfloat16 or float32")
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def allow_tf32(allow: bool) -> None:
    """Let float32 matrix products on CUDA use TF32 (about three decimal digits, much faster), or not."""
    import torch

    torch.set_float32_matmul_precision("high" if allow else "highest")


def peak_memory(device: torch.device) -> int:
    """Largest memory used so far, in bytes: the allocator's on CUDA, the process's resident set elsewhere."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows, where only this function is missing

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
