"""Replies from a function or a file: for tests, demonstrations and models that are no language models."""

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any

from shared_core.errors import InputError

from rar_prompt.chat import ProviderError, Reply, Request, Usage

Answer = str | Reply


class Scripted:
    """Answers by calling `function(request)`, plain or asynchronous.

    Args:
        function: returns a text or a `Reply`.
        name: model name for the records; part of the cache key, so change it with the function.
        concurrency: requests in flight.
        digest: what tells this function from an earlier one of the name.
    """

    def __init__(
        self,
        function: Callable[[Request], Answer | Awaitable[Answer]],
        name: str = "scripted",
        concurrency: int = 16,
        digest: str = "",
    ) -> None:
        self.function = function
        self.digest = digest
        self.name = name
        self.concurrency = concurrency

    def identity(self) -> dict[str, Any]:
        """The name."""
        return {"scripted": self.name, "model": self.name, "digest": self.digest}

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`.

        Raises:
            ProviderError: "empty", where the script has no text.
        """
        answer = self.function(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Reply):
            return answer
        prompt = sum(len(message.content.split()) for message in request.messages)
        if not answer.strip():
            raise ProviderError(f"{self.name}: the reply has no text", "empty", reply=Reply("", usage=Usage(prompt, 0)))
        return Reply(answer, usage=Usage(prompt, len(answer.split())), model=self.name)

    async def close(self) -> None:
        """Nothing to release."""


def scripted_from_file(path: str) -> Scripted:
    """A backend from a YAML list of `{match: REGEX, reply: TEXT}`: the first rule that matches the last message.

    Raises:
        InputError: naming the rule that cannot be used.
    """
    from shared_core.run_folder import read_config

    rules = read_config(path).get("rules")
    if not isinstance(rules, list) or not rules:
        raise InputError(f"{path}: wanted `rules:` with a list of {{match: REGEX, reply: TEXT}}")
    compiled = []
    for number, rule in enumerate(rules, start=1):
        try:
            compiled.append((re.compile(rule["match"], re.DOTALL), str(rule["reply"])))
        except (TypeError, KeyError, re.error) as error:
            raise InputError(f"{path}, rule {number}: wanted {{match: REGEX, reply: TEXT}} ({error})") from error

    def answer(request: Request) -> str:
        text = request.messages[-1].content
        for pattern, reply in compiled:
            if pattern.search(text):
                return reply
        raise ProviderError(f"{path}: no rule matches {text[:60]!r}", "missing")

    digest = hashlib.sha256(repr(rules).encode()).hexdigest()[:16]
    return Scripted(answer, name=f"scripted:{path}", digest=digest)
