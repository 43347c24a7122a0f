"""A Hugging Face causal language model on this machine: batched, left-padded, the same text as one by one."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_core.errors import InputError

from rar_prompt.chat import Message, ProviderError, Reply, Request, Usage

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int
    from torch import Tensor


@dataclass
class _Row:
    """One request under way."""

    request: Request
    ids: list[int]
    limit: int
    new: list[int]
    generator: "torch.Generator | None"


class LocalModel:
    """Greedy or sampled completions of a local model.

    Requests that wait are sorted by length and generated together; rows that end leave the batch. Each sampled row
    draws from a generator of its own, seeded by its request, so that a row does not depend on its company.

    Args:
        model: a causal LM of transformers.
        tokenizer: its tokenizer; a chat template is used where it has one, else the messages are joined by newlines.
        name: for the records.
        digest: what tells these weights from others, for the cache key.
        batch_size: most rows at once.
        device: where to compute.

    Raises:
        InputError: for a batch size below 1.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, digest: str = "", batch_size: int = 16, device: str = "cpu"
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        # twice a batch: the next one is complete when the current one ends
        self.concurrency = 2 * batch_size
        self._digest = digest
        self._device = device
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._worker: asyncio.Task[None] | None = None
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = {end for end in (*ends, tokenizer.eos_token_id) if end is not None}

    def identity(self) -> dict[str, Any]:
        """Name and digest of the weights."""
        return {"local": self.name, "model": self.name, "digest": self._digest}

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.002)  # those who were woken together arrive together
            # the longest first: equal lengths share a batch, and the oldest of the rest are not starved for long
            self._waiting.sort(key=lambda pair: -sum(len(message.content) for message in pair[0].messages))
            batch, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
            for (_, future), reply in zip(batch, await self._answer([request for request, _ in batch]), strict=True):
                if future.done():
                    continue
                if isinstance(reply, ProviderError):
                    future.set_exception(reply)
                elif reply.text.strip() or reply.truncated:
                    future.set_result(reply)
                else:
                    future.set_exception(ProviderError(f"{self.name}: the reply has no text", "empty", reply=reply))

    async def _answer(self, batch: list[Request]) -> list[Reply | ProviderError]:
        """Replies, or why there is none: what fails together is tried alone, for one long prompt must not fail all."""
        try:
            return list(await asyncio.to_thread(self.generate, batch))
        except Exception as error:
            if len(batch) == 1:
                return [_as_provider_error(error, self.name)]
        return [reply for request in batch for reply in await self._answer([request])]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the reply."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        if self.tokenizer.chat_template:
            ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        else:
            ids = self.tokenizer("\n".join(message.content for message in messages))["input_ids"]
        return list(ids)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies to a batch of requests.

        Raises:
            ProviderError: if a prompt leaves no room in the model's context.
        """
        import time

        start = time.perf_counter()
        rows = [self._row(request) for request in requests]
        self._generate(rows)
        seconds = round((time.perf_counter() - start) / len(rows), 4)
        return [self._reply(row, seconds) for row in rows]

    def _row(self, request: Request) -> _Row:
        import torch

        ids = self.encode(request.messages)
        context = getattr(self.model.config, "max_position_embeddings", None) or 10**9
        limit = min(request.sampling.max_tokens or 1024, context - len(ids))
        if limit < 1:
            raise ProviderError(f"{self.name}: the prompt has {len(ids)} tokens, the context {context}", "bad-request")
        generator = None
        if (request.sampling.temperature or 0) > 0:
            seeds = [request.sampling.seed, request.sample, [[m.role, m.content] for m in request.messages]]
            digest = hashlib.sha256(repr(seeds).encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        return _Row(request, ids, limit, [], generator)

    def _generate(self, rows: list[_Row]) -> None:
        import torch

        with torch.inference_mode():
            tokens, mask = self._padded(rows)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            past = None
            active = rows
            while active:
                out = self.model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=past,
                    use_cache=True,
                    logits_to_keep=1,
                )
                past = out.past_key_values
                chosen = self._choose(out.logits[:, -1].float(), active)
                going = []
                for place, (row, token) in enumerate(zip(active, chosen, strict=True)):
                    row.new.append(token)
                    if token not in self._ends and len(row.new) < row.limit:
                        going.append(place)
                if not going:
                    return
                if len(going) < len(active):  # the batch shrinks with every reply that ends
                    keep = torch.tensor(going, device=self._device)
                    past.batch_select_indices(keep)
                    mask, positions = mask[keep], positions[keep]
                    active = [active[place] for place in going]
                tokens = torch.tensor([[row.new[-1]] for row in active], device=self._device)
                mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
                positions = positions[:, -1:] + 1

    def _padded(self, rows: list[_Row]) -> "tuple[Int[Tensor, 'row token'], Int[Tensor, 'row token']]":
        import torch

        longest = max(len(row.ids) for row in rows)
        pad = self.tokenizer.pad_token_id
        pad = pad if pad is not None else next(iter(self._ends), 0)
        tokens = [[pad] * (longest - len(row.ids)) + row.ids for row in rows]
        mask = [[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows]
        return torch.tensor(tokens, device=self._device), torch.tensor(mask, device=self._device)

    def _choose(self, logits: "Tensor", rows: list[_Row]) -> list[int]:
        chosen = logits.argmax(dim=-1).tolist()
        for place, row in enumerate(rows):
            if row.generator is not None:
                chosen[place] = _draw(logits[place].cpu(), row)
        return chosen

    def _reply(self, row: _Row, seconds: float) -> Reply:
        ended = row.new[-1] in self._ends
        text = self.tokenizer.decode(row.new[:-1] if ended else row.new, skip_special_tokens=True)
        usage = Usage(len(row.ids), len(row.new))
        return Reply(text, "stop" if ended else "length", usage, self.name, seconds)

    async def close(self) -> None:
        """Wait for the batch under way."""
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)


def _draw(logits: "Tensor", row: _Row) -> int:
    import torch

    sampling = row.request.sampling
    probabilities = (logits / (sampling.temperature or 1.0)).softmax(dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0  # the smallest set that reaches top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
    return int(torch.multinomial(probabilities, 1, generator=row.generator))


def _as_provider_error(error: Exception, name: str) -> ProviderError:
    if isinstance(error, ProviderError):
        return error
    return ProviderError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", "bad-request")


def load_local(path: str | Path, *, batch_size: int = 16, device: str = "auto", dtype: str = "auto") -> LocalModel:
    """A model from a folder in Hugging Face layout, or from a .gguf file (de-quantised; its own tokenizer).

    Raises:
        InputError: if there is no model at `path`, or it cannot be read.
    """
    from shared_core.device import resolve_device
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    file = Path(path)
    if not file.exists():
        raise InputError(f"local model: there is no {file}")
    folder, gguf = (file.parent, file.name) if file.suffix == ".gguf" else (file, None)
    options = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **options)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, dtype="float32" if gguf else dtype, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"local model {file}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    return LocalModel(
        model,
        tokenizer,
        name=file.name,
        digest=_digest(file),
        batch_size=batch_size,
        device=str(resolve_device(device)),
    )


def _digest(path: Path) -> str:
    """SHA-256 over sizes and the first and last megabyte of the weights: fast, and another training changes it."""
    found = hashlib.sha256()
    for file in [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*.json")]):
        size = file.stat().st_size
        found.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            found.update(content.read(2**20))
            content.seek(max(0, size - 2**20))
            found.update(content.read())
    return found.hexdigest()[:16]
