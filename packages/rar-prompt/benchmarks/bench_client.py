"""Client CPU per call and wall time against a loopback server with fixed latency and injected faults.

Every client gets the same prompts, the same concurrency and the same faults (one request in ten meets a 429, a 500 or a
broken connection first), and its replies are compared. Ours records every call on disk, as it does in a run. The peers
are used as their documentation says: one asynchronous client, a semaphore, their own retries.
"""

import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rar_prompt import Caller, ChatServer, Journal, Limits, Message, Request, Retry, Sampling
from shared_core.benchmark import Comparison, compare

CALLS, CONCURRENCY, LATENCY, REPEATS = 400, 32, 0.05, 5
FAULTS = ",".join(["429", *["none"] * 9, "500", *["none"] * 9, "drop", *["none"] * 9])


class Loopback:
    """The server in a process of its own, so that only the client's CPU is counted."""

    def __init__(self, latency: float, faults: str = "") -> None:
        script = Path(__file__).with_name("loopback.py")
        command = [sys.executable, str(script), "--latency", str(latency), "--faults", faults]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}/v1"

    def stats(self) -> dict:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats") as answer:
            return json.load(answer)

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def prompts(round_: int, name: str, calls: int = CALLS) -> list[str]:
    """Different prompts for each client and round: the server injects faults by prompts it has not seen."""
    return [f"Question {index:04d} of round {round_} for {name}: is it so?" for index in range(calls)]


async def ours(url: str, texts: list[str], concurrency: int = CONCURRENCY) -> list[str]:
    backend = ChatServer(url, "m", limits=Limits(concurrency), retry=Retry(base=0.1, cap=0.5))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "calls.jsonl"))
        caller = Caller(journal, "bench")
        sampling = Sampling(max_tokens=64)
        calls = [caller.call(backend, Request((Message("user", text),), sampling)) for text in texts]
        found = await asyncio.gather(*calls)
        await backend.close()
        assert len(journal) == len(texts)
        journal.close()
    return [called.reply.text for called in found]


async def with_openai(url: str, texts: list[str]) -> list[str]:
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=6)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(text: str) -> str:
        async with slots:
            reply = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": text}], temperature=0.0, max_tokens=64
            )
        return reply.choices[0].message.content

    found = await asyncio.gather(*(one(text) for text in texts))
    await client.close()
    return list(found)


async def with_litellm(url: str, texts: list[str]) -> list[str]:
    import litellm

    litellm.suppress_debug_info = True
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(text: str) -> str:
        async with slots:
            reply = await litellm.acompletion(
                model="openai/m", messages=[{"role": "user", "content": text}], api_base=url, api_key="x",
                temperature=0.0, max_tokens=64, num_retries=6,
            )  # fmt: skip
        return reply.choices[0].message.content

    return list(await asyncio.gather(*(one(text) for text in texts)))


def expected(texts: list[str]) -> list[str]:
    from loopback import reply_to

    return [reply_to(text) for text in texts]


def measured(call, url: str, texts: list[str]) -> tuple[float, bool]:
    """CPU milliseconds per call of this process, and whether every reply is the server's."""
    start = time.process_time()
    replies = asyncio.run(call(url, texts))
    spent = time.process_time() - start
    return 1000 * spent / len(texts), replies == expected(texts)


def run() -> list[Comparison]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
    for chatty in ("LiteLLM", "openai", "httpx"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    import openai

    clients = {"ours": ours, "sdk": with_openai, "litellm": with_litellm}
    cpu: dict[str, list[float]] = {name: [] for name in clients}
    same = dict.fromkeys(clients, True)
    with Loopback(LATENCY, FAULTS) as server:
        for round_ in range(REPEATS + 1):  # the first round imports, connects and compiles
            for name, call in clients.items():
                spent, right = measured(call, server.url, prompts(round_, name))
                same[name] &= right
                if round_:
                    cpu[name].append(spent)
    rows = []
    for name, peer, id in (
        ("sdk", f"openai {openai.__version__}", "client-cpu-sdk"),
        ("litellm", f"litellm {_version('litellm')}", "client-cpu-litellm"),
    ):
        rows.append(
            compare(
                id, f"client CPU per call, {CALLS} calls, {CONCURRENCY} at once, faults injected", peer,
                cpu["ours"], cpu[name], same_result=same["ours"] and same[name], unit="ms",
            )
        )  # fmt: skip
    return [*rows, wall(), pipelined()]


def _version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


def wall() -> Comparison:
    """1,000 questions at 200 ms and 64 at once: ideal ceil(1000 / 64) x 0.2 s = 3.2 s."""
    ideal = -(-1000 // 64) * 0.2
    seconds, right = [], True
    with Loopback(0.2) as server:
        for round_ in range(3):
            texts = prompts(round_, "wall", 1000)
            start = time.perf_counter()
            replies = asyncio.run(ours(server.url, texts, 64))
            seconds.append(time.perf_counter() - start)
            right &= replies == expected(texts)
        right &= server.stats()["most"] <= 64
    assert min(seconds) <= 1.15 * ideal, (seconds, ideal)
    return compare(
        "wall-1000", "seconds for 1,000 questions at 200 ms, 64 at once (ratio 1 is ideal; 0.87 is asked for)",
        "ideal time of a chat-completions server", seconds, [ideal] * len(seconds), same_result=right,
    )  # fmt: skip


def pipelined() -> Comparison:
    """When the median answer is there, if one first step in twenty is slow: per item against stage after stage."""
    from rar_prompt import Condition, Item, Scripted, evaluate, load_templates, plan

    items, slow, fast = 200, 2.0, 0.1
    templates = load_templates()

    async def step(index: int, first: bool) -> str:
        await asyncio.sleep(slow if first and index % 20 == 0 else fast)
        return f"{index} {first}"

    async def answer(request: Request) -> str:
        text = request.messages[-1].content
        return await step(int(text.split("#")[1].split("?")[0]), "(original)" not in text)

    def by_item() -> tuple[float, list[str]]:
        condition = Condition(plan("two-step", templates), Scripted(answer, concurrency=64))
        questions = [Item(f"{index}", f"#{index}?") for index in range(items)]
        start, ends = time.perf_counter(), []
        work = evaluate(
            questions,
            [condition],
            templates,
            Caller(),
            on_answer=lambda record: ends.append(time.perf_counter() - start),
        )
        records = asyncio.run(work)
        return statistics.median(ends), [record["replies"][0] for record in records]

    async def stages() -> tuple[float, list[str]]:
        slots, ends = asyncio.Semaphore(64), []

        async def bounded(index: int, first: bool) -> str:
            async with slots:
                text = await step(index, first)
            if not first:
                ends.append(time.perf_counter() - start)
            return text

        start = time.perf_counter()
        await asyncio.gather(*(bounded(index, True) for index in range(items)))
        texts = list(await asyncio.gather(*(bounded(index, False) for index in range(items))))
        return statistics.median(ends), texts

    mine, theirs, right = [], [], True
    for _ in range(3):
        first, second = by_item(), asyncio.run(stages())
        mine.append(first[0])
        theirs.append(second[0])
        right &= first[1] == second[1]
    return compare(
        "two-step-pipelined", f"seconds to the median of {items} two-step answers, one rephrasing in twenty slow",
        "asyncio, stage after stage", mine, theirs, same_result=right,
    )  # fmt: skip
