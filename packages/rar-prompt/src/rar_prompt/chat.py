"""What is asked of a model and what it says: the small protocol behind which every backend stands."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared_core.errors import InputError, RunError


@dataclass(frozen=True)
class Sampling:
    """Settings of one completion; None leaves a setting to the provider.

    Args:
        temperature: 0 is greedy (still not bit-deterministic on servers).
        top_p: nucleus mass.
        max_tokens: cap on the reply; a reply that reaches it is `truncated`, never cached.
        seed: of the draws, where the backend has one; sample i takes seed + i, or all samples would be one.

    Raises:
        InputError: if a setting is out of range.
    """

    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int | None = 1024
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {self.max_tokens}")

    def given(self) -> dict[str, float | int]:
        """The settings that are not None."""
        names = ("temperature", "top_p", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Message:
    """One turn: role (`system`, `user`, `assistant`) and text."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One completion wanted.

    Args:
        messages: the conversation.
        sampling: its settings.
        sample: which of several draws of the same request; part of the cache key.
        key: the cache key, sent as Idempotency-Key so that a retry need not be paid twice.
        priority: smaller goes first where requests wait; second steps go before first ones.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    sample: int = 0
    key: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counts them; None where it does not say.

    Args:
        prompt: tokens of the conversation, cached ones included.
        completion: tokens of the reply, hidden reasoning included.
        cached: the part of `prompt` that the provider's own cache held.
        reasoning: the part of `completion` that is hidden.
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion tokens together, unknown ones as 0."""
        return (self.prompt or 0) + (self.completion or 0)

    def __add__(self, other: "Usage") -> "Usage":
        """Tokens of two requests; what one of them does not say is unknown."""
        prompt = None if self.prompt is None or other.prompt is None else self.prompt + other.prompt
        known = self.completion is not None and other.completion is not None
        completion = (self.completion or 0) + (other.completion or 0) if known else None
        return Usage(prompt, completion, self.cached + other.cached, self.reasoning + other.reasoning)


@dataclass(frozen=True)
class Reply:
    """One completion.

    Args:
        text: what the model said.
        finish_reason: `stop`, `length` (cut off), or the provider's own word.
        usage: tokens of the attempt that succeeded.
        model: the model that the provider says it served.
        seconds: of the attempt that succeeded, from sending to the last byte.
        attempts: requests sent.
        reasoning: hidden reasoning, where the provider shows it.
        wasted: tokens of empty replies before this one: paid, and no part of what the answer takes.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    seconds: float = 0.0
    attempts: int = 1
    reasoning: str = ""
    wasted: Usage = field(default_factory=lambda: Usage(0, 0))

    @property
    def paid(self) -> Usage:
        """Tokens of every reply that was paid for."""
        return self.usage + self.wasted

    @property
    def truncated(self) -> bool:
        """Whether the reply was cut off at the token limit."""
        return self.finish_reason == "length"


def without_thinking(text: str) -> str:
    """The reply without reasoning that a server left in it (`<think>` blocks, also unclosed or only closed ones)."""
    text = re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.DOTALL)
    return text.rsplit("</think>", 1)[-1]


class Backend(Protocol):
    """Anything that completes a conversation."""

    name: str
    concurrency: int

    def identity(self) -> dict[str, Any]:
        """What makes its replies its own (endpoint, model), for the cache key; never a secret."""
        ...

    async def complete(self, request: Request) -> Reply:
        """The reply to a request.

        Raises:
            ProviderError: after retries; `fatal` where every other request would fail as well.
        """
        ...

    async def close(self) -> None:
        """Release connections and threads."""
        ...


class ProviderError(RunError):
    """A backend gave no usable reply.

    Args:
        message: one line, without secrets.
        kind: `auth`, `model`, `bad-request`, `rate`, `server`, `connection`, `timeout`, `malformed`, `empty` or
            `missing`.
        status: HTTP status, where there was one.
        retry_after: seconds that the provider asks to wait.
        reply: an unusable reply that was paid for (an empty one).
    """

    def __init__(
        self,
        message: str,
        kind: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after = retry_after
        self.reply = reply
        self.attempts = 1

    @property
    def fatal(self) -> bool:
        """Whether every other request to this backend would fail as well: a wrong key, an unknown model."""
        return self.kind in ("auth", "model")

    @property
    def outage(self) -> bool:
        """Whether it says nothing of the request and all of the provider."""
        return self.kind in ("rate", "server", "connection", "timeout", "malformed")

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in ("rate", "server", "connection", "timeout", "malformed", "empty")
