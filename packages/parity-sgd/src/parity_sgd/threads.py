"""Whole runs, and chunks of one batch, in as many threads as torch has; results do not depend on how many these are."""

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
    results: dict[int, Result] = {}
    waiting = iter(range(len(items)))

    def work() -> None:  # every thread takes the next item: one hand-over a thread, not one an item
        try:
            for i in waiting:
                results[i] = function(items[i])
        except BaseException:
            deque(waiting, maxlen=0)  # after an error or Ctrl-C no thread begins another
            raise

    helpers = [_run_pool(threads - 1).submit(work) for _ in range(min(threads, len(items)) - 1)]
    try:
        work()
    finally:
        wait(helpers)
    for helper in helpers:
        helper.result()  # raises what it raised
    return [results[i] for i in range(len(items))]


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
    waiting: deque[Future[Tensor]] = deque()
    for item in items:
        if sum(not future.done() for future in waiting) < threads - 1:
            waiting.append(_chunk_pool(threads - 1).submit(function, item))
        else:  # this thread is one of them: waking another takes as long as a small chunk
            waiting.append(Future())
            waiting[-1].set_result(function(item))
        if len(waiting) > threads:  # items are made as they are needed: memory does not grow with their number
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()
