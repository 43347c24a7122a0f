"""`serve`: an OpenAI-compatible proxy that applies RaR to any client's traffic.

The last user message is the question; what stands before it is kept. Clients choose the method by the model name
(`two-step`, `one-step:reword`, ...); the reply carries x' in `rar.rephrased`, and usage is the sum of the calls.
"""

import json
import time
import uuid
from dataclasses import replace
from typing import Any

from aiohttp import web
from shared_core.errors import InputError, RunError

from rar_prompt.caller import Caller
from rar_prompt.chat import Backend, Message, ProviderError, Sampling
from rar_prompt.conversation import solve_conversation
from rar_prompt.methods import METHODS, Plan, Solution, plan
from rar_prompt.templates import TemplateSet

# what would change the answer and cannot be kept through two calls: refused rather than dropped
REFUSED = ("tools", "functions", "stop", "logprobs", "logit_bias", "frequency_penalty", "presence_penalty")


class Proxy:
    """The request handlers.

    Args:
        responder: answers.
        rephraser: rephrases; the responder by default.
        templates: the prompts.
        caller: the way to the models.
        default: method of requests whose model is no method's name.
        sampling: of what a client leaves open.
    """

    def __init__(
        self,
        responder: Backend,
        rephraser: Backend | None,
        templates: TemplateSet,
        caller: Caller,
        default: str = "two-step",
        sampling: Sampling = Sampling(temperature=None),
    ) -> None:
        self.responder = responder
        self.rephraser = rephraser or responder
        self.templates = templates
        self.caller = caller
        self.default = plan(default, templates)
        self.sampling = sampling
        if self.default.votes > 1:
            raise InputError("serve answers each request once: give a method without votes")

    def app(self) -> web.Application:
        """The web application: `/v1/chat/completions`, `/v1/models`, `/health`."""
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, app: web.Application) -> None:
        await self.responder.close()
        if self.rephraser is not self.responder:
            await self.rephraser.close()

    async def health(self, request: web.Request) -> web.Response:
        """Whether the proxy is up."""
        return web.json_response({"status": "ok"})

    async def models(self, request: web.Request) -> web.Response:
        """The methods, as model names."""
        names = [name for name in METHODS if ":" not in name and not name.startswith("few-shot")]
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "rar-prompt"} for name in names]
        return web.json_response({"object": "list", "data": rows})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """One chat completion by the chosen method; a client that wants a stream gets the whole reply as one piece."""
        try:
            body = await request.json()
            chosen, messages, sampling = self._parse(body)
        except (InputError, json.JSONDecodeError, UnicodeDecodeError) as error:
            return _error(400, str(error), "invalid_request_error")
        try:
            solution = await solve_conversation(
                messages, chosen, self.responder, self.rephraser, self.templates, self.caller, sampling
            )
        except ProviderError as error:
            return _error(error.status or 502, str(error), error.kind)
        except InputError as error:
            return _error(400, str(error), "invalid_request_error")
        except RunError as error:
            return _error(503, str(error), "stopped")
        completion = _completion(chosen, solution)
        if not body.get("stream"):
            return web.json_response(completion)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await response.write(_events(completion, bool((body.get("stream_options") or {}).get("include_usage"))))
        return response

    def _parse(self, body: Any) -> tuple[Plan, list[Message], Sampling]:
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
            raise InputError("messages must be a list with at least one message")
        if body.get("n") not in (None, 1):
            raise InputError("n must be 1")
        refused = next((name for name in REFUSED if body.get(name)), None)
        if refused or (body.get("response_format") or {}).get("type", "text") != "text":
            raise InputError(f"{refused or 'response_format'} is not supported: a rephrased question has text alone")
        messages = [_message(message) for message in body["messages"]]
        name = str(body.get("model") or "")
        chosen = self.default
        if name.partition(":")[0] in {known.partition(":")[0] for known in METHODS}:
            chosen = plan(name, self.templates)
            if chosen.votes > 1:
                raise InputError("each request is answered once: give a method without votes")
        given = {key: body[key] for key in ("temperature", "top_p", "seed") if body.get(key) is not None}
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        given |= {"max_tokens": limit} if limit else {}
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in given.values()):
            raise InputError("temperature, top_p, seed and max_tokens must be numbers")
        return chosen, messages, replace(self.sampling, **given)


def _message(message: Any) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InputError("every message must be an object with role and content")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise InputError("content must be text")
    return Message(message["role"], content)


def _completion(chosen: Plan, solution: Solution) -> dict[str, Any]:
    usages = [called.reply.usage for _, called in solution.calls]
    prompt, completion = sum(u.prompt or 0 for u in usages), sum(u.completion or 0 for u in usages)
    reason = "length" if solution.truncated else "stop"
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": chosen.name,
        "choices": [
            {
                "index": 0,
                "finish_reason": reason,
                "message": {"role": "assistant", "content": solution.text},
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
        "rar": {"method": chosen.name, "rephrased": solution.rephrased, "calls": len(solution.calls)},
    }


def _events(completion: dict[str, Any], with_usage: bool) -> bytes:
    """A completion as server-sent events: the text, its end, on wish the usage, and the closing mark."""
    head = {name: completion[name] for name in ("id", "created", "model", "rar")} | {"object": "chat.completion.chunk"}
    choice = completion["choices"][0]
    pieces: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
    ]
    pieces += [{"choices": [], "usage": completion["usage"]}] if with_usage else []
    lines = [json.dumps(head | piece) for piece in pieces]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "code": kind}}, status=status)


def serve(proxy: Proxy, host: str, port: int) -> None:
    """Serve until interrupted; prints the address.

    Raises:
        InputError: if the port cannot be taken.
    """
    if not 0 <= port < 65536:
        raise InputError(f"--port must be in 0..65535, got {port}")
    try:
        web.run_app(proxy.app(), host=host, port=port, print=lambda text: print(text, flush=True), access_log=None)
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be served: {error.strerror}") from error
