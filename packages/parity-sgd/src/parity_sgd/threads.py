"""Whole runs, and chunks of one batch, in as many threads as torch has; results do not depend on how many these are."""

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, reduce
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def each_in_threads(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """function(item) of every item, in order; as many at a time as torch has threads, one on other devices."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or len(items) < 2:
        return list(map(function, items))
    return list(_run_pool(threads).map(function, items))


@lru_cache(maxsize=1)
def _run_pool(threads: int) -> ThreadPoolExecutor:  # not that of the chunks, for which its threads wait
    return ThreadPoolExecutor(threads, "parity-sgd-runs")


@lru_cache(maxsize=1)
def _chunk_pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "parity-sgd-chunks")


def sum_in_threads(
    function: Callable[[tuple[Tensor, Tensor]], Tensor], items: Iterable[tuple[Tensor, Tensor]]
) -> Tensor:
    """Sum of function(item) in the order of the items, so that the result does not depend on the thread count."""
    return reduce(operator.add, _map_in_threads(function, items))


def _map_in_threads(
    function: Callable[[tuple[Tensor, Tensor]], Tensor], items: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[Tensor]:
    threads = torch.get_num_threads()
    if threads == 1:  # waking another thread costs as much as a small chunk
        yield from map(function, items)
        return
    waiting: deque[Future[Tensor]] = deque()
    for item in items:
        waiting.append(_chunk_pool(threads).submit(function, item))
        if len(waiting) > threads:  # items are made as they are needed: memory does not grow with their number
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()
