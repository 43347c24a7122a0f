"""accelerate's view of the processes that run this."""

from typing import Any

from shared_core.errors import InputError

from spin_diffusion.config import Precision


def make_accelerator(precision: Precision = "float32", cpu: bool = False) -> Any:
    """One process or, under `accelerate launch`, many.

    Raises:
        InputError: for float16 without a GPU, which torch can autocast but not fast.
    """
    import torch
    from accelerate import Accelerator

    cpu = cpu or not torch.accelerator.is_available()
    if precision == "float16" and cpu:
        raise InputError("precision float16 needs a GPU; on a CPU use bfloat16 or float32")
    mixed = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision]
    return Accelerator(cpu=cpu, mixed_precision=mixed)
