"""DSPy: an engine that restates the last user message of every request.

`dspy.configure(lm=dspy.LM("rar", engine=RaREngine("http://localhost:8000/v1#my-model")))`
"""

import asyncio
from typing import Any

from dspy import lm15  # type: ignore[import-not-found, import-untyped, unused-ignore]

from rar_prompt.adapters.bridge import RaR
from rar_prompt.chat import Message, Sampling


class RaREngine:
    """The engine interface of DSPy: `complete(Request) -> Response`.

    Args:
        model: see `RaR`.
        rephraser: see `RaR`.
        **options: of `RaR`.
    """

    def __init__(self, model: Any, rephraser: Any = None, **options: Any) -> None:
        self.rar = RaR(model, rephraser, **options)

    def complete(self, request: lm15.Request) -> lm15.Response:
        """The reply to one request.

        Raises:
            ValueError: for tools or parts that are no text.
        """
        solution = self.rar.wait(self.rar.solve(_messages(request), _sampling(request)))
        usages = [called.reply.usage for _, called in solution.calls]
        prompt, completion = sum(u.prompt or 0 for u in usages), sum(u.completion or 0 for u in usages)
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message(role="assistant", parts=(lm15.TextPart(text=solution.text),)),
            finish_reason="length" if solution.truncated else "stop",
            usage=lm15.Usage(prompt, completion, prompt + completion),
        )


class AsyncRaREngine:
    """The same for `dspy.LM(async_engine=...)`; takes what `RaREngine` takes."""

    def __init__(self, model: Any, rephraser: Any = None, **options: Any) -> None:
        self.engine = RaREngine(model, rephraser, **options)

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """The reply to one request, without blocking the caller's loop."""
        return await asyncio.to_thread(self.engine.complete, request)


def _messages(request: lm15.Request) -> list[Message]:
    if request.tools:
        raise ValueError("RaR takes no tools")
    messages = [Message("system", _text(request.system))] if request.system else []
    return [*messages, *(Message(message.role, _text(message.parts)) for message in request.messages)]


def _text(parts: Any) -> str:
    if isinstance(parts, str):
        return parts
    texts = [part.text for part in parts if isinstance(getattr(part, "text", None), str)]
    if len(texts) < len(parts):
        raise ValueError("RaR takes text only")
    return "\n".join(texts)


def _sampling(request: lm15.Request) -> Sampling:
    config = request.config
    return Sampling(
        getattr(config, "temperature", None),
        getattr(config, "top_p", None),
        getattr(config, "max_tokens", None) or 1024,
        getattr(config, "seed", None),
    )
