"""One event loop in a thread of its own, for tools that call from ordinary code."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from rar_prompt.backends.open import Endpoint, open_backend
from rar_prompt.caller import Caller
from rar_prompt.chat import Backend, Message, Sampling
from rar_prompt.conversation import solve_conversation
from rar_prompt.methods import Solution, plan
from rar_prompt.templates import load_templates

T = TypeVar("T")


class RaR:
    """A method with its models, callable from any thread.

    Args:
        model: the responder: a backend, or what `open_backend` reads.
        rephraser: another model that rephrases.
        method: one without votes.
        templates: template set.
        endpoint: how models given by name are reached.
        caller: with a journal, to keep calls; a fresh one by default.
    """

    def __init__(
        self,
        model: Backend | str,
        rephraser: Backend | str | None = None,
        *,
        method: str = "two-step",
        templates: str = "paper",
        endpoint: Endpoint = Endpoint(),
        caller: Caller | None = None,
    ) -> None:
        self.templates = load_templates(templates)
        self.plan = plan(method, self.templates)
        self.responder = open_backend(model, endpoint) if isinstance(model, str) else model
        self.rephraser = open_backend(rephraser, endpoint) if isinstance(rephraser, str) else rephraser
        self.caller = caller or Caller(templates=self.templates.hash, remember=False)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def solve(self, messages: Sequence[Message], sampling: Sampling) -> Solution:
        """The method's reply to one conversation."""
        models = (self.responder, self.rephraser)
        return await solve_conversation(messages, self.plan, *models, self.templates, self.caller, sampling)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop of this object and wait for the result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def solve_all(self, requests: Sequence[tuple[Sequence[Message], Sampling]]) -> list[Solution]:
        """Replies to many conversations at once."""

        async def every() -> list[Solution]:
            return list(await asyncio.gather(*(self.solve(*request) for request in requests)))

        return self.wait(every())

    def close(self) -> None:
        """Close connections and end the thread."""

        async def end() -> None:
            await self.responder.close()
            if self.rephraser is not None:
                await self.rephraser.close()

        self.wait(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
