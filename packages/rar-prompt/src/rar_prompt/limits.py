"""Concurrency, requests and tokens per minute of one endpoint."""

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared_core.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What an endpoint may be asked at once and per minute; None is no limit.

    Args:
        concurrency: requests in flight.
        requests_per_minute: RPM.
        tokens_per_minute: TPM, prompt and reply; estimated before a call, corrected after it.

    Raises:
        InputError: for a limit below 1.
    """

    concurrency: int = 16
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


class Slots:
    """At most `concurrency` holders at once; those who wait go in the order of their priority, then of their coming."""

    def __init__(self, concurrency: int) -> None:
        self._free = concurrency
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def hold(self, priority: int = 0) -> AsyncIterator[None]:
        """Hold one slot; a smaller priority goes first."""
        if self._free > 0:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (priority, next(self._order), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Throttle:
    """Admits requests within the per-minute limits, and pauses when the server asks for it.

    Args:
        limits: the limits.
        window: seconds of the sliding window.
    """

    def __init__(self, limits: Limits, window: float = 60.0) -> None:
        self.limits = limits
        self.window = window
        self._sent: deque[tuple[float, list[int]]] = deque()
        self._gate = asyncio.Lock()
        self._paused_until = 0.0

    async def admit(self, tokens: int) -> list[int]:
        """Wait until a request of about `tokens` may be sent; the returned cell takes the true number afterwards."""
        cell = [tokens]
        while self._paused_until > time.monotonic():  # another 429 may have made it longer meanwhile
            await self._until(self._paused_until)
        if self.limits.requests_per_minute is None and self.limits.tokens_per_minute is None:
            return cell
        async with self._gate:  # first come, first served
            while (ready := self._ready_at(tokens)) > time.monotonic():
                await self._until(ready)
            self._sent.append((time.monotonic(), cell))
        return cell

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the server said so to one request, and means all."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))

    def _ready_at(self, tokens: int) -> float:
        now = time.monotonic()
        while self._sent and self._sent[0][0] <= now - self.window:
            self._sent.popleft()
        ready = self._paused_until
        rpm, tpm = self.limits.requests_per_minute, self.limits.tokens_per_minute
        if rpm is not None and len(self._sent) >= rpm:
            ready = max(ready, self._sent[len(self._sent) - rpm][0] + self.window)
        if tpm is not None:
            # a request larger than the whole budget goes alone rather than never
            excess = sum(cell[0] for _, cell in self._sent) + min(tokens, tpm) - tpm
            for moment, cell in self._sent:
                if excess <= 0:
                    break
                excess -= cell[0]
                ready = max(ready, moment + self.window)
        return ready
