"""One thread for loops of tiny kernels, where waking a pool costs more than the work."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_thread(when: bool = True) -> Iterator[None]:
    """Let torch use one thread inside (process wide), and as many as before after it."""
    before = torch.get_num_threads()
    if not when or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
