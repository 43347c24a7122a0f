"""Recorded calls as a model: a run is repeated without a server and without paying."""

import json
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from rar_prompt.chat import ProviderError, Reply, Request, Usage


class Replay:
    """Answers from the `calls.jsonl` of a run, by messages and sample number.

    Args:
        path: the file, or the run folder.
        model: take only calls of this model; needed where the file holds several.

    Raises:
        InputError: if the file holds no calls, or calls of several models.
    """

    concurrency = 16

    def __init__(self, path: str | Path, model: str | None = None) -> None:
        file = Path(path)
        file = file / "calls.jsonl" if file.is_dir() else file
        if not file.is_file():
            raise InputError(f"replay: there is no {file}")
        self._replies: dict[tuple[str, int], Reply] = {}
        models: set[str] = set()
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not line:
                continue
            try:
                record = json.loads(line)
                if record["status"] != "ok":
                    continue
                name = str(record["backend"].get("model") or record["backend"])
                if model is not None and name != model:
                    continue
                models.add(name)
                self._replies[_messages(record["messages"]), record["sample"]] = _reply(record)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{file}, line {number}: not a recorded call") from error
        if len(models) != 1:
            which = f"calls of {', '.join(sorted(models))}: say which model" if models else "no finished calls"
            raise InputError(f"{file} holds {which}")
        self.name = models.pop()

    def identity(self) -> dict[str, Any]:
        """The recorded model."""
        return {"replay": self.name, "model": self.name}

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`.

        Raises:
            ProviderError: "missing", where nothing was recorded for the request.
        """
        messages = _messages([{"role": m.role, "content": m.content} for m in request.messages])
        reply = self._replies.get((messages, request.sample))
        if reply is None:
            raise ProviderError(f"nothing was recorded for {request.messages[-1].content[:60]!r}", "missing")
        return reply

    async def close(self) -> None:
        """Nothing to release."""


def _messages(messages: list[dict[str, str]]) -> str:
    return json.dumps([[message["role"], message["content"]] for message in messages])


def _reply(record: dict[str, Any]) -> Reply:
    names = ("text", "finish_reason", "model", "seconds", "attempts", "reasoning")
    return Reply(**{name: record[name] for name in names}, usage=Usage(**record["usage"]))
