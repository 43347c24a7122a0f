"""Calls that are never paid twice: cache, single flight, budget, and a record of each."""

import asyncio
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from shared_core.errors import RunError

from rar_prompt.chat import Backend, ProviderError, Reply, Request, Usage
from rar_prompt.journal import KEY_DIGITS, Journal
from rar_prompt.limits import Slots
from rar_prompt.prices import Budget, Prices


def request_key(templates: str, backend: Backend, request: Request) -> str:
    """First 32 hex digits of the SHA-256 of everything that determines a reply.

    Template set, endpoint and model, messages, every sampling setting, sample number.
    """
    content: list[Any] = [templates, backend.identity(), [[m.role, m.content] for m in request.messages]]
    content += [asdict(request.sampling), request.sample]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True)
class Called:
    """A reply with where it came from.

    Args:
        reply: the reply.
        key: its key in the journal.
        cached: whether it was there before this call (then it cost nothing now).
        cost: money when it was paid, None where unknown.
    """

    reply: Reply
    key: str
    cached: bool
    cost: float | None


class StoppedError(RunError):
    """The run is ending: nothing more is sent."""


@dataclass
class Counts:
    """What a session did."""

    calls: int = 0
    cached: int = 0
    shared: int = 0
    failed: int = 0
    tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0


@dataclass
class Caller:
    """The way to a model: looks up, joins a call in flight, keeps to the budget, records.

    Args:
        journal: where calls are recorded and found; None keeps nothing.
        templates: hash of the template set.
        prices: of a user's price file.
        budget: what may be spent.
        counts: what was done so far.
        stopping: once not empty, no further call is sent; those in flight are awaited, for they are paid.
        give_up: stop after so many calls in a row that failed because the provider was not there (connection, timeout,
            server fault, rate limit), whoever asked; None goes on.
        remember: keep replies and failures for as long as this object lives, so that conditions of one run share them;
            off for a proxy, which lives for long and may be asked the same again.
    """

    journal: Journal | None = None
    templates: str = ""
    prices: Prices = field(default_factory=lambda: Prices({}))
    budget: Budget = field(default_factory=Budget)
    counts: Counts = field(default_factory=Counts)
    stopping: str = ""
    give_up: int | None = None
    remember: bool = True
    _outage: int = 0
    _slots: dict[int, Slots] = field(default_factory=dict)
    _flights: dict[str, "asyncio.Future[Called]"] = field(default_factory=dict)

    async def call(self, backend: Backend, request: Request, **about: Any) -> Called:
        """The reply to a request, paid at most once.

        Args:
            backend: the model.
            request: what is asked; its key is set here.
            about: what the record shall say of the call (item, method, stage).

        Raises:
            ProviderError: if there is no usable reply; it is recorded and not cached.
            BudgetSpentError: before a call that the budget does not allow.
            StoppedError: before a call, when the run is ending.
        """
        key = request_key(self.templates, backend, request)
        known = self.journal.get(key) if self.journal is not None else None
        if known is not None:
            self.counts.cached += 1
            return Called(_reply(known), key, True, known.get("cost"))
        flight = self._flights.get(key)
        if flight is not None:
            self.counts.shared += 1
            return replace(await asyncio.shield(flight), cached=True)
        flight = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            called = await self._pay(backend, replace(request, key=key), about)
        except BaseException as error:
            # kept for the run: a request that failed for one condition is not paid again for another
            flight.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            flight.exception()
            if not self.remember:
                del self._flights[key]
            raise
        flight.set_result(called)
        if not self.remember or (self.journal is not None and not called.reply.truncated):
            del self._flights[key]
        return called

    async def _pay(self, backend: Backend, request: Request, about: dict[str, Any]) -> Called:
        slots = self._slots.setdefault(id(backend), Slots(backend.concurrency))
        async with slots.hold(request.priority):
            if self.stopping:
                raise StoppedError(self.stopping)
            return await self._pay_now(backend, request, about)

    async def _pay_now(self, backend: Backend, request: Request, about: dict[str, Any]) -> Called:
        estimate = Usage(_estimate(request), request.sampling.max_tokens or 1024)
        hold = await self.budget.reserve(estimate.total, self.prices.cost(backend.name, estimate))
        reply = None
        try:
            self._record(request.key, "started", **about)
            reply = await backend.complete(request)
        except ProviderError as error:
            reply = error.reply
            self.counts.failed += 1
            self._count_outage(error)
            status = "empty" if error.kind == "empty" else "failed"
            self._record(request.key, status, **about, **_failure(error), **self._whole(backend, request, reply))
            raise
        finally:
            usage = reply.paid if reply else Usage(0, 0)
            cost = self.prices.cost(backend.name, usage)
            await self.budget.settle(hold, usage.total, cost)
            self.counts.tokens += usage.total
            self.counts.cost += cost or 0.0
            self.counts.unpriced += reply is not None and cost is None
        self.counts.calls += 1
        self._outage = 0
        status = "truncated" if reply.truncated else "ok"
        self._record(request.key, status, **about, **self._whole(backend, request, reply))
        return Called(reply, request.key, False, cost)

    def _count_outage(self, error: ProviderError) -> None:
        self._outage = self._outage + 1 if error.outage else 0
        if self.give_up is not None and self._outage >= self.give_up:
            self.stopping = self.stopping or f"{self._outage} calls in a row failed, the last one: {error}"

    def _whole(self, backend: Backend, request: Request, reply: Reply | None) -> dict[str, Any]:
        """Everything of a call, for its record."""
        values: dict[str, Any] = {
            "backend": backend.identity(),
            "templates": self.templates,
            "messages": [asdict(message) for message in request.messages],
            "sampling": asdict(request.sampling),
            "sample": request.sample,
        }
        if reply is not None:
            costs = {"cost": reply.usage, "wasted_cost": reply.wasted}
            values |= asdict(reply) | {name: self.prices.cost(backend.name, usage) for name, usage in costs.items()}
        return values

    def _record(self, key: str, status: str, **values: Any) -> None:
        if self.journal is not None:
            self.journal.append(key, status, **values)


def _failure(error: ProviderError) -> dict[str, Any]:
    return {"error": str(error), "kind": error.kind, "http_status": error.status, "attempts_made": error.attempts}


def _reply(record: dict[str, Any]) -> Reply:
    names = ("text", "finish_reason", "model", "seconds", "attempts", "reasoning")
    return Reply(**{name: record[name] for name in names}, usage=Usage(**record["usage"]))


def _estimate(request: Request) -> int:
    """Prompt tokens, guessed high: three characters each."""
    return sum(len(message.content) // 3 + 8 for message in request.messages)
