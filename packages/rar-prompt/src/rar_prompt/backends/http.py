"""Any OpenAI-compatible server, by a thin asynchronous client."""

import asyncio
import json
import os
import re
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from shared_core.errors import InputError

from rar_prompt.chat import ProviderError, Reply, Request, Usage
from rar_prompt.limits import Limits, Throttle
from rar_prompt.retry import Retry, retry_after, with_retries

_SECRET = re.compile(r"key|authorization|password|secret", re.IGNORECASE)


class ChatServer:
    """`POST {base_url}/chat/completions` with limits, timeouts and retries.

    Args:
        base_url: e.g. `http://localhost:8000/v1`; must hold no secret.
        model: the server's name for the model.
        key_env: name of the environment variable with the API key. By default OPENAI_API_KEY, for api.openai.com only:
            a key is never sent to a server that it was not meant for.
        limits: concurrency, requests and tokens per minute.
        retry: when a failed request is sent again.
        timeout: seconds of one attempt, from connecting to the last byte.
        extra: further fields of the request's body, for servers that need them.

    Raises:
        InputError: if the address is not http(s), holds credentials, or the variable is not set.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_env: str | None = None,
        limits: Limits = Limits(),
        retry: Retry = Retry(),
        timeout: float = 120.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"base_url must be an http(s) address such as http://localhost:8000/v1, got {base_url!r}")
        if parts.username or parts.password or parts.query:
            raise InputError("base_url must not hold credentials or a query; keys come from the environment (key_env)")
        if not model:
            raise InputError("a model name is wanted, e.g. http://localhost:8000/v1#my-model")
        secret = next((name for name in extra or {} if _SECRET.search(name)), None)
        if secret:
            raise InputError(f"extra must not hold {secret!r}; keys come from the environment (key_env)")
        if timeout <= 0:
            raise InputError(f"timeout must be positive, got {timeout}")
        self.name = model
        self.base_url = base_url.rstrip("/")
        self.concurrency = limits.concurrency
        self._key = _read_key(key_env, parts.hostname)
        self._new_names = parts.hostname == "api.openai.com"  # its newer models refuse `max_tokens`
        self._retry = retry
        self._timeout = timeout
        self._extra = extra or {}
        self._throttle = Throttle(limits)
        self._session: aiohttp.ClientSession | None = None

    def identity(self) -> dict[str, Any]:
        """Address, model and extra fields."""
        return {"base_url": self.base_url, "model": self.name, "extra": self._extra}

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`."""
        attempts = 0

        async def send() -> Reply:
            nonlocal attempts
            attempts += 1
            return await self._send(request)

        reply = await with_retries(send, self._retry, self._slow_down)
        return replace(reply, attempts=attempts)

    def _slow_down(self, error: ProviderError, wait: float) -> None:
        if error.kind == "rate" and error.retry_after is not None:
            self._throttle.pause(error.retry_after)

    async def _send(self, request: Request) -> Reply:
        guess = sum(len(message.content) // 3 + 8 for message in request.messages)
        cell = await self._throttle.admit(guess + (request.sampling.max_tokens or 0))
        body = {
            "model": self.name,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            **self._settings(request),
            **self._extra,
        }
        headers = {"Idempotency-Key": request.key} if request.key else {}
        start = time.perf_counter()
        try:
            session = self._open()
            # a redirect would carry the questions elsewhere, and turn POST into GET
            async with session.post(
                f"{self.base_url}/chat/completions", json=body, headers=headers, allow_redirects=False
            ) as response:
                content = await response.read()
                if response.status != 200:
                    raise self._refused(response.status, response.headers, content)
        except TimeoutError:
            raise ProviderError(f"{self.base_url}: no whole reply within {self._timeout:g} s", "timeout") from None
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or "no connection"
            raise ProviderError(f"{self.base_url} cannot be reached: {reason}", "connection") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderError(
                f"{self.base_url}: the connection broke ({type(error).__name__})", "connection"
            ) from error
        reply = self._read(content)
        if reply.usage.total:
            cell[0] = reply.usage.total
        return replace(reply, seconds=round(time.perf_counter() - start, 4))

    def _settings(self, request: Request) -> dict[str, float | int]:
        values = request.sampling.given()
        if "seed" in values:
            values["seed"] += request.sample
        if self._new_names and "max_tokens" in values:
            values["max_completion_tokens"] = values.pop("max_tokens")
        return values

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the throttle holds the limit
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                headers=headers,
                auto_decompress=True,
            )
        return self._session

    def _refused(self, status: int, headers: Any, content: bytes) -> ProviderError:
        said = self._redact(_error_text(content))
        text = f"{self.base_url} answered {status}{f': {said}' if said else ''}"
        wait = retry_after(headers)
        if status in (401, 403):
            return ProviderError(f"{text} (is the key right? its variable is named by key_env)", "auth", status=status)
        if status == 404:
            return ProviderError(f"{text} (model {self.name!r})", "model", status=status)
        if status == 402:
            return ProviderError(text, "auth", status=status)
        if 300 <= status < 400:
            text += f" (a redirect to {headers.get('Location', 'nowhere')}; give the address itself)"
            return ProviderError(text, "model", status=status)
        if status == 429:
            # no waiting brings back spent credit
            kind = "auth" if "insufficient_quota" in said else "rate"
            return ProviderError(text, kind, status=status, retry_after=wait)
        kind = "server" if status >= 500 or status in (408, 409, 425) else "bad-request"
        kind = "model" if kind == "bad-request" and _names_model(said) else kind
        return ProviderError(text, kind, status=status, retry_after=wait)

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _read(self, content: bytes) -> Reply:
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            message = choice["message"]
            text = message.get("content")
            if isinstance(text, list):
                text = "".join(part.get("text", "") for part in text)
            reply = Reply(
                text=text or "",
                finish_reason=choice.get("finish_reason") or "stop",
                usage=_usage(answer.get("usage") or {}),
                model=str(answer.get("model") or ""),
                reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
            )
            if not isinstance(reply.text, str):
                raise TypeError("content is no text")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            shown = self._redact(content[:80].decode(errors="replace"))
            text = f"{self.base_url}: not a chat completion ({type(error).__name__} in {shown!r})"
            raise ProviderError(text, "malformed") from error
        if not reply.text.strip() and not reply.truncated:
            raise ProviderError(f"{self.base_url}: the reply has no text", "empty", reply=reply)
        return reply

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
            await asyncio.sleep(0)


def _read_key(key_env: str | None, host: str) -> str | None:
    name = key_env or ("OPENAI_API_KEY" if host == "api.openai.com" else None)
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise InputError(f"the environment variable {name} holds no key")
    if not key.isascii() or any(character.isspace() for character in key):
        raise InputError(f"the environment variable {name} holds something that cannot be a key")
    return key


def _error_text(content: bytes) -> str:
    text = content[:2000].decode(errors="replace")
    try:
        error = json.loads(content)["error"]
        text = f"{error.get('message', '')} {error.get('code') or error.get('type') or ''}"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return " ".join(text.split())[:300]


def _names_model(said: str) -> bool:
    said = said.lower()
    return "model_not_found" in said or ("model" in said and ("does not exist" in said or "not found" in said))


def _usage(raw: dict[str, Any]) -> Usage:
    of_prompt = raw.get("prompt_tokens_details") or {}
    of_completion = raw.get("completion_tokens_details") or {}
    return Usage(
        raw.get("prompt_tokens"),
        raw.get("completion_tokens"),
        of_prompt.get("cached_tokens") or 0,
        of_completion.get("reasoning_tokens") or 0,
    )
