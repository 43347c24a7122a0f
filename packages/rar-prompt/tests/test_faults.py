"""Faults of servers, kills and secrets: nothing lost, nothing paid twice, one clear line."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rar_prompt import Caller, ChatServer, Condition, Journal, Limits, Message, Request, Retry, Sampling, generate, plan
from rar_prompt.chat import ProviderError, Reply, Usage
from rar_prompt.evaluation import evaluate
from rar_prompt.limits import Slots, Throttle
from rar_prompt.prices import Budget, BudgetSpentError, Price, Prices
from rar_prompt.retry import retry_after, with_retries
from rar_prompt.templates import load_templates
from shared_core.errors import InputError

QUICK = Retry(base=0.01, cap=0.05)
SECRET = "sk-very-secret-0123456789"


def ask(url, *texts, model="m", retry=QUICK, **options):
    """The replies to texts, or the first error."""

    async def go():
        backend = ChatServer(url, model, retry=retry, **options)
        try:
            requests = [Request((Message("user", text),), Sampling(max_tokens=64), key=text) for text in texts]
            return await asyncio.gather(*(backend.complete(request) for request in requests))
        finally:
            await backend.close()

    return asyncio.run(go())


@pytest.mark.parametrize("fault", ["429", "500", "drop", "half", "malformed", "html", "null", "empty"])
def test_a_fault_is_retried_and_the_reply_arrives(loopback, fault):
    server = loopback("--faults", fault)
    (reply,) = ask(server.url, "question")
    assert reply.text.startswith("The answer is")
    assert reply.attempts == 2
    assert len(server.served()) == 1


def test_a_slow_body_times_out_and_is_retried(loopback):
    server = loopback("--faults", "slow")
    start = time.monotonic()
    (reply,) = ask(server.url, "question", timeout=0.5)
    assert reply.attempts == 2
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("fault", ["429-wait", "503-wait"])
def test_retry_after_is_honoured(loopback, fault):
    server = loopback("--faults", fault)
    start = time.monotonic()
    ask(server.url, "question")
    assert time.monotonic() - start >= 1.0


def test_being_told_to_slow_down_spends_no_attempt():
    errors = [ProviderError("slow", "rate") for _ in range(20)]

    async def send():
        if errors:
            raise errors.pop()
        return Reply("fine")

    reply = asyncio.run(with_retries(send, Retry(attempts=2, base=0.001, cap=0.002)))
    assert reply.text == "fine"


def test_an_empty_reply_was_paid_too():
    replies = [Reply("", usage=Usage(3, 4)), Reply("fine", usage=Usage(3, 5))]

    async def send():
        reply = replies.pop(0)
        if not reply.text:
            raise ProviderError("no text", "empty", reply=reply)
        return reply

    reply = asyncio.run(with_retries(send, QUICK))
    assert (reply.usage, reply.paid) == (Usage(3, 5), Usage(6, 9))
    replies += [Reply("", usage=Usage(3, 4)), Reply("", usage=Usage(3, 4))]
    with pytest.raises(ProviderError) as caught:
        asyncio.run(with_retries(send, QUICK))
    assert caught.value.reply.paid == Usage(6, 8)


def test_attempts_are_counted_and_the_last_error_is_told():
    async def send():
        raise ProviderError("oops", "server", status=500)

    with pytest.raises(ProviderError, match="oops") as caught:
        asyncio.run(with_retries(send, Retry(attempts=3, base=0.001)))
    assert caught.value.attempts == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "3"}, 3), ({"retry-after-ms": "250"}, 0.25), ({"retry-after": "soon"}, None), ({}, None)],
)
def test_retry_after_headers(headers, seconds):
    assert retry_after(headers) == seconds
    assert 0 <= retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) < 1


@pytest.mark.parametrize(
    ("options", "model", "words", "kind"),
    [(("--key", SECRET), "m", "answered 401", "auth"), (("--models", "other"), "m", "answered 404", "model")],
)
def test_a_wrong_key_or_model_is_one_line_and_not_retried(loopback, options, model, words, kind):
    server = loopback(*options)
    with pytest.raises(ProviderError, match=words) as caught:
        ask(server.url, "question", model=model)
    assert (caught.value.kind, caught.value.fatal, caught.value.attempts) == (kind, True, 1)
    assert server.stats()["requests"] == 1


def test_an_unreachable_server_is_named():
    with pytest.raises(ProviderError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached"):
        ask("http://127.0.0.1:9/v1", "question", retry=Retry(attempts=2, base=0.001))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/v1", "must be an http"),
        ("http://me:secret@host/v1", "must not hold credentials"),
        ("http://host/v1?key=x", "must not hold credentials"),
    ],
)
def test_addresses_hold_no_secrets(url, words):
    with pytest.raises(InputError, match=words):
        ChatServer(url, "m")


def test_extra_fields_hold_no_key():
    with pytest.raises(InputError, match="must not hold 'api_key'"):
        ChatServer("http://host/v1", "m", extra={"api_key": SECRET})


def test_a_key_is_read_from_the_environment_and_sent_only_where_it_was_named(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError, match="MY_KEY holds no key"):
        ChatServer("http://host/v1", "m", key_env="MY_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert ChatServer("http://host/v1", "m")._key is None
    assert ChatServer("https://api.openai.com/v1", "m")._key == SECRET


def test_the_key_is_nowhere_in_the_run_folder_or_in_what_is_printed(loopback, tmp_path):
    server = loopback("--key", SECRET, "--faults", "500,none,malformed")
    environment = os.environ | {"MY_KEY": SECRET}
    command = [sys.executable, "-c", "from rar_prompt.cli import main; raise SystemExit(main())", "run", "coin-flip"]
    command += [
        "--n",
        "5",
        "--model",
        f"{server.url}#m",
        "--endpoint.key_env",
        "MY_KEY",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wrong = [*command[:-1], str(tmp_path / "wrong")]
    denied = subprocess.run(
        wrong, env=environment | {"MY_KEY": "sk-other-secret"}, capture_output=True, text=True, cwd=tmp_path
    )
    assert (denied.returncode, denied.stderr.count("\n") < 4) == (1, True)
    assert "401" in denied.stderr
    told = done.stdout + done.stderr + denied.stdout + denied.stderr
    for file in [*(tmp_path / "run").rglob("*"), *(tmp_path / "wrong").rglob("*")]:
        told += file.read_bytes().decode(errors="replace") if file.is_file() else ""
    assert SECRET not in told
    assert "sk-other-secret" not in told
    assert "[key]" in told  # the server repeated it


def run_command(url, folder, n=40):
    code = "from rar_prompt.cli import main; raise SystemExit(main())"
    return [
        *(sys.executable, "-c", code, "run", "coin-flip,last-letters", "--methods", "plain,one-step,two-step"),
        *("--n", str(n), "--model", f"{url}#m", "--out", str(folder), "--endpoint.concurrency", "8"),
        *("--endpoint.timeout", "5"),
    ]  # fmt: skip


def test_kill_9_and_resume_answers_each_question_once(loopback, tmp_path):
    server = loopback("--latency", "0.05", "--faults", "429,none,500,none,drop,none,null,none,malformed,none,half,none")
    folder = tmp_path / "run"
    kills = 0
    for wait in (40, 120, 200):
        process = subprocess.Popen(
            run_command(server.url, folder), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and len(server.served()) < wait:
            time.sleep(0.01)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the server ends what the dead client had asked for
    assert kills == 3
    recorded = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines() if line.endswith("}")]
    ok = {record["key"] for record in recorded if record["status"] == "ok"}
    before = len(server.served())
    assert before - len(ok) <= 3 * 8, "more was lost than was in flight"
    code = "from rar_prompt.cli import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code, "resume", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = [row["key"] for row in server.served()[before:]]
    assert not ok & set(again), "a recorded call was paid again"
    assert len(again) == len(set(again))
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len({(row["task"], row["id"], row["condition"]) for row in records}) == len(records) == 2 * 40 * 3
    assert {row["outcome"] for row in records} <= {"correct", "wrong"}
    # a run that was never killed has the same records
    whole = subprocess.run(run_command(server.url, tmp_path / "whole"), capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    fresh = [json.loads(line) for line in (tmp_path / "whole" / "records.jsonl").read_text().splitlines()]
    drop = ("seconds", "attempts")
    assert [{k: v for k, v in r.items() if k not in drop} for r in fresh] == [
        {k: v for k, v in r.items() if k not in drop} for r in records
    ]
    # and a finished run asks nothing more
    count = len(server.served())
    subprocess.run([sys.executable, "-c", code, "resume", str(folder)], capture_output=True, check=True)
    assert len(server.served()) == count


@pytest.mark.parametrize("verb", ["run", "rephrase", "audit"])
def test_ctrl_c_keeps_what_is_in_flight(loopback, tmp_path, verb):
    server = loopback("--latency", "0.3")
    out = tmp_path / ("x.jsonl" if verb == "rephrase" else "out")
    code = "from rar_prompt.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, verb, "coin-flip", "--model", f"{server.url}#m", "--out", str(out)]
    command += ["--endpoint.concurrency", "8"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while len(server.served()) < 8 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in told
    journal = out.with_name("x.jsonl.calls.jsonl") if verb == "rephrase" else out / "calls.jsonl"
    ok = [line for line in journal.read_text().splitlines() if '"status": "ok"' in line]
    assert len(ok) == len(server.served())


def test_two_runs_in_one_folder_are_refused(run_cli, tmp_path):
    journal = Journal(tmp_path / "calls.jsonl")
    with pytest.raises(InputError, match="another run is writing"):
        Journal(tmp_path / "calls.jsonl")
    journal.close()


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "calls.jsonl"
    journal = Journal(path)
    journal.append("a" * 32, "ok", text="one")
    journal.append("b" * 32, "failed", error="x")
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert len(journal) == (1 if cut >= whole.index(b"\n") + 1 else 0)
        assert journal.get("b" * 32) is None
        journal.append("c" * 32, "ok", text="é")
        assert journal.get("c" * 32)["text"] == "é"
        journal.close()
    path.write_text("not a record\n")
    with pytest.raises(InputError, match="line 1: not a record"):
        Journal(path)


def test_a_journal_of_100_000_calls_opens_at_once(tmp_path):
    path = tmp_path / "calls.jsonl"
    line = '{"key": "%032x", "status": "ok", "text": "' + "x" * 400 + '"}\n'
    path.write_text("".join(line % index for index in range(100_000)))
    start = time.process_time()
    journal = Journal(path)
    opened = time.process_time() - start
    start = time.process_time()
    for index in range(0, 100_000, 100):
        assert journal.get(f"{index:032x}") is not None
    looked_up = (time.process_time() - start) / 1000
    journal.close()
    assert opened < 1
    assert looked_up < 1e-3


def served_by(handler, *requests, model="m"):
    """Replies or errors of a server that is one function."""

    async def go():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handler)
        async with TestServer(app) as server:
            backend = ChatServer(str(server.make_url("/v1")), model, retry=QUICK)
            found = await asyncio.gather(*(backend.complete(each) for each in requests), return_exceptions=True)
            await backend.close()
            return found

    return asyncio.run(go())


@pytest.mark.parametrize(("status", "kind"), [(402, "auth"), (302, "model")])
def test_spent_credit_and_redirects_stop_at_once(status, kind):
    async def handler(asked):
        return web.Response(status=status, text="no", headers={"Location": "http://127.0.0.1:9/"})

    (error,) = served_by(handler, request())
    assert (error.kind, error.fatal, error.attempts) == (kind, True, 1)


def test_each_sample_has_its_own_seed():
    seen = []

    async def handler(asked):
        seen.append((await asked.json()).get("seed"))
        return web.json_response({"choices": [{"message": {"content": "x"}}]})

    served_by(handler, *(Request((Message("user", "q"),), Sampling(seed=7), sample=i) for i in range(3)))
    assert sorted(seen) == [7, 8, 9]


def test_the_token_limit_has_the_name_that_openai_wants(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    settings = ChatServer("https://api.openai.com/v1", "m")._settings(request())
    assert settings == {"temperature": 0.0, "max_completion_tokens": 1024}
    assert ChatServer("http://host/v1", "m")._settings(request())["max_tokens"] == 1024


def test_a_provider_that_is_away_stops_the_run_and_not_a_proxy():
    def answer(asked):
        raise ProviderError("away", "connection")

    templates = load_templates()
    conditions = [Condition(plan("plain", templates), Fake(answer))]
    caller = Caller(templates=templates.hash, give_up=8)
    records = asyncio.run(evaluate(generate("coin-flip", 100), conditions, templates, caller))
    assert "8 calls in a row failed, the last one: away" in caller.stopping
    assert 8 <= len(records) <= 8 + Fake.concurrency
    caller = Caller(templates=templates.hash)
    assert len(asyncio.run(evaluate(generate("coin-flip", 100), conditions, templates, caller))) == 100


class Fake:
    """A backend that counts and answers as told."""

    name, concurrency = "fake", 4

    def __init__(self, answer):
        self.answer, self.calls, self.inside, self.most = answer, 0, 0, 0

    def identity(self):
        return {"fake": True}

    async def complete(self, request):
        self.calls += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.001)
        self.inside -= 1
        return self.answer(request)

    async def close(self):
        pass


def request(text="q", sample=0):
    return Request((Message("user", text),), sample=sample)


def test_equal_calls_in_flight_are_paid_once_and_samples_apart(tmp_path):
    backend = Fake(lambda r: Reply("yes", usage=Usage(1, 1)))
    caller = Caller(Journal(tmp_path / "calls.jsonl"), "t")

    async def go():
        await asyncio.gather(*(caller.call(backend, request()) for _ in range(10)))
        await caller.call(backend, request())
        await caller.call(backend, request(sample=1))

    asyncio.run(go())
    assert backend.calls == 2
    assert (caller.counts.calls, caller.counts.shared, caller.counts.cached) == (2, 9, 1)
    caller.journal.close()


def test_a_proxy_asks_again_after_a_failure_and_keeps_nothing():
    answers = [ProviderError("oops", "server"), Reply("yes"), Reply("no")]

    def answer(r):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def go():
        caller = Caller(remember=False)
        backend = Fake(answer)
        with pytest.raises(ProviderError):
            await caller.call(backend, request())
        return [(await caller.call(backend, request())).reply.text for _ in range(2)]

    assert asyncio.run(go()) == ["yes", "no"]


@pytest.mark.parametrize("text", ["cut", "empty", "error"])
def test_errors_empty_and_truncated_replies_are_recorded_and_not_cached(tmp_path, text):
    def answer(r):
        if text == "cut":
            return Reply("half", "length", Usage(1, 1))
        reply = Reply("", usage=Usage(1, 0)) if text == "empty" else None
        raise ProviderError("no text", "empty" if text == "empty" else "server", reply=reply)

    backend = Fake(answer)
    for session in (1, 2):
        journal = Journal(tmp_path / "calls.jsonl")

        async def go(journal=journal):
            caller = Caller(journal, "t")
            return await asyncio.gather(
                caller.call(backend, request()), caller.call(backend, request()), return_exceptions=True
            )

        asyncio.run(go())
        assert backend.calls == session  # once a session, also for two who ask
        assert len(journal) == 0
        statuses = [record["status"] for record in journal.records()]
        journal.close()
    assert statuses[-1] == {"cut": "truncated", "empty": "empty", "error": "failed"}[text]


def test_concurrency_is_kept_and_later_steps_go_first():
    backend = Fake(lambda r: Reply("no", usage=Usage(1, 1)))
    templates = load_templates()
    conditions = [Condition(plan(name, templates), backend) for name in ("plain", "two-step")]
    records = asyncio.run(evaluate(generate("coin-flip", 30), conditions, templates, Caller()))
    assert backend.most == 4
    assert len(records) == 60

    async def order():
        slots, seen = Slots(1), []

        async def hold(name, priority):
            async with slots.hold(priority):
                seen.append(name)
                await asyncio.sleep(0.001)

        await asyncio.gather(hold("a", 0), hold("b", 0), hold("c", -1))
        return seen

    assert asyncio.run(order()) == ["a", "c", "b"]


def test_a_slow_rephrasing_blocks_nobody():
    ended = []

    async def answer(r):
        text = r.messages[-1].content
        await asyncio.sleep(0.5 if "slow" in text and "(original)" not in text else 0.01)
        return "yes"

    from rar_prompt import Item, Scripted

    templates = load_templates()
    items = [Item("0", "slow one?", "yes"), *(Item(str(i), f"quick {i}?", "yes") for i in range(1, 20))]
    condition = Condition(plan("two-step", templates), Scripted(answer, concurrency=4))
    work = evaluate(items, [condition], templates, Caller(), on_answer=lambda record: ended.append(record["id"]))
    asyncio.run(work)
    assert ended[-1] == "0"


def test_requests_per_minute_by_a_sliding_window():
    async def go():
        throttle = Throttle(Limits(4, requests_per_minute=5), window=0.3)
        moments = []
        for _ in range(12):
            await throttle.admit(0)
            moments.append(time.monotonic())
        return moments

    moments = asyncio.run(go())
    assert all(later - earlier >= 0.29 for earlier, later in zip(moments, moments[5:], strict=False))


def test_tokens_per_minute_are_corrected_by_what_was_used():
    async def go(used):
        throttle = Throttle(Limits(4, tokens_per_minute=100), window=0.3)
        start = time.monotonic()
        for _ in range(4):
            cell = await throttle.admit(50)
            cell[0] = used
        return time.monotonic() - start

    assert asyncio.run(go(10)) < 0.1
    assert asyncio.run(go(50)) >= 0.29


@pytest.mark.parametrize(("limit", "money"), [(60, None), (None, 60e-6)])
def test_a_budget_stops_before_it_is_exceeded(tmp_path, limit, money):
    backend = Fake(lambda r: Reply("yes", usage=Usage(5, 5)))
    prices = Prices({"fake": Price(1.0, 1.0)})
    budget = Budget(limit, money)
    caller = Caller(Journal(tmp_path / "calls.jsonl"), "t", prices, budget)
    templates = load_templates()
    condition = Condition(plan("plain", templates), backend, sampling=Sampling(max_tokens=5))
    items = generate("even-day", 50)
    records = asyncio.run(evaluate(items, [condition], templates, caller))
    assert 0 < len(records) < 50
    assert "budget" in caller.stopping
    assert budget.tokens <= 60
    assert budget.tokens == 10 * backend.calls
    caller.journal.close()


def test_a_budget_in_money_needs_prices():
    caller = Caller(budget=Budget(max_cost=1.0))
    with pytest.raises(InputError, match="needs a price"):
        asyncio.run(caller.call(Fake(lambda r: Reply("x")), request()))


def test_cost_counts_the_providers_cache_and_unknown_is_unknown():
    prices = Prices({"m": Price(2.0, 10.0, 1.0)})
    assert prices.cost("m", Usage(1000, 100, cached=400)) == pytest.approx((600 * 2 + 400 * 1 + 100 * 10) / 1e6)
    assert prices.cost("other", Usage(1000, 100)) is None
    assert prices.cost("m", Usage(None, 100)) is None


def test_a_reservation_waits_for_calls_in_flight():
    async def go():
        budget = Budget(max_tokens=10)
        first = await budget.reserve(8, None)
        waiting = asyncio.create_task(budget.reserve(8, None))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await budget.settle(first, 1, None)
        await waiting
        await budget.settle(waiting.result(), 9, None)
        with pytest.raises(BudgetSpentError, match="does not allow"):
            await budget.reserve(1, None)

    asyncio.run(go())
