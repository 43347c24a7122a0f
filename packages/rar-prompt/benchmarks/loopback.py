"""A chat-completions server on this machine with fixed latency and injected faults, in a process of its own.

`python loopback.py --latency 0.05 --faults 429,500,drop --log served.jsonl` prints its port. The i-th different request
meets fault i (in turn) at its first attempt and is answered at the next one, so that every run meets the same faults.
The reply is a function of the prompt. Each whole reply is a line of the log: {"key", "prompt"}.
"""

import argparse
import asyncio
import hashlib
import json
import re

from aiohttp import web

FAULTS = ("429", "429-wait", "500", "503-wait", "drop", "half", "slow", "malformed", "html", "null", "empty")


def reply_to(prompt: str) -> str:
    """Coin questions are solved where the prompt says what a flip is, or rephrases; anything else gets its digest."""
    if prompt.endswith("Maintain all information in the original question."):
        return f'"{prompt.splitlines()[0].strip(chr(34))} A flip reverses the coin."'
    if "coin" in prompt:
        heads = len(re.findall(r" flips the coin", prompt.split("(rephrased)")[0].split("\n")[0])) % 2 == 0
        return f"The answer is {'yes' if heads else 'no'}."
    return "The answer is " + hashlib.sha256(prompt.encode()).hexdigest()[:6] + "."


class Server:
    def __init__(self, latency: float, faults: list[str], log: str | None, key: str | None, models: list[str]) -> None:
        self.latency, self.faults, self.key, self.models = latency, faults, key, models
        self.log = open(log, "a", buffering=1) if log else None  # noqa: SIM115, PTH123
        self.seen: dict[str, int] = {}
        self.inside = self.most = self.requests = 0

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({"most": self.most, "requests": self.requests, "different": len(self.seen)})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            return await self._answer(request, body)
        finally:
            self.inside -= 1

    async def _answer(self, request: web.Request, body: dict) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key and sent != self.key:
            return _error(401, f"Incorrect API key provided: {sent}", "invalid_api_key")
        if self.models and body["model"] not in self.models:
            return _error(404, f"The model `{body['model']}` does not exist", "model_not_found")
        prompt = body["messages"][-1]["content"]
        first = prompt not in self.seen
        self.seen[prompt] = self.seen.get(prompt, 0) + 1
        fault = self.faults[(len(self.seen) - 1) % len(self.faults)] if first and self.faults else "none"
        if fault == "429":
            return _error(429, "slow down", "rate_limit_exceeded")
        if fault in ("429-wait", "503-wait"):
            return _error(int(fault[:3]), "slow down", "rate_limit_exceeded", {"Retry-After": "1"})
        if fault == "500":
            return _error(500, "oops", "server_error")
        await asyncio.sleep(self.latency)
        if fault == "drop":
            request.transport.close()
            return web.Response()
        return await self._whole(request, body, prompt, fault)

    async def _whole(self, request: web.Request, body: dict, prompt: str, fault: str) -> web.StreamResponse:
        text = {"null": None, "empty": "  "}.get(fault, reply_to(prompt))
        limit = body.get("max_tokens") or 10**9
        words = (text or "").split(" ")
        cut = text is not None and len(words) > limit
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "length" if cut else "stop",
                    "message": {"role": "assistant", "content": " ".join(words[:limit]) if cut else text},
                }
            ],
            "usage": {
                "prompt_tokens": len(prompt.split()),
                "completion_tokens": min(len(words), limit),
                "total_tokens": len(prompt.split()) + min(len(words), limit),
            },
        }
        content = json.dumps(answer).encode()
        if fault == "malformed":
            content = content[: len(content) // 2]
        if fault == "html":
            content = b"<html>gateway</html>"
        if fault in ("half", "slow"):
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[:20])
            await asyncio.sleep(0 if fault == "half" else 30)
            request.transport.close()
            return response
        if fault == "none" and self.log:
            self.log.write(json.dumps({"key": request.headers.get("Idempotency-Key"), "prompt": prompt}) + "\n")
        return web.Response(body=content, content_type="application/json")


def _error(status: int, message: str, code: str, headers: dict | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=headers)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--faults", default="")
    parser.add_argument("--log")
    parser.add_argument("--key")
    parser.add_argument("--models", default="")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    faults = [fault for fault in given.faults.split(",") if fault]
    server = Server(given.latency, faults, given.log, given.key, [name for name in given.models.split(",") if name])
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/stats", server.stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", given.port, backlog=1024)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
