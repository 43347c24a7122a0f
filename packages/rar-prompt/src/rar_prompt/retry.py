"""Retries with jitter that honour Retry-After."""

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from shared_core.errors import InputError

from rar_prompt.chat import ProviderError, Reply, Usage


@dataclass(frozen=True)
class Retry:
    """When a failed request is sent again.

    Waits are drawn uniformly from [0, min(cap, base 2^k)] ("full jitter") and are never shorter than Retry-After.
    Being told to slow down (429) is no failure of the request: it spends `patience`, not `attempts`.

    Args:
        attempts: requests that may fail, the first included.
        base: seconds.
        cap: longest drawn wait in seconds.
        patience: seconds of waiting in all before a request is given up.
        empty: requests that may come back without text; each of them is paid.

    Raises:
        InputError: for counts below 1 or negative times.
    """

    attempts: int = 6
    base: float = 0.5
    cap: float = 30.0
    patience: float = 600.0
    empty: int = 2

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.empty < 1 or min(self.base, self.cap, self.patience) < 0:
            raise InputError(f"retry: attempts and empty must be at least 1, times not negative, got {self}")


async def with_retries(
    send: Callable[[], Awaitable[Reply]],
    policy: Retry,
    on_wait: Callable[[ProviderError, float], None] = lambda error, wait: None,
    jitter: random.Random | None = None,
) -> Reply:
    """Call `send` until it succeeds or the policy is spent.

    Args:
        send: one attempt.
        policy: when to go on.
        on_wait: told of each error and the wait that follows it.
        jitter: source of the waits.

    Raises:
        ProviderError: the last one, its `attempts` set.
    """
    draw = jitter or _JITTER
    failures = rates = empties = 0
    waited = 0.0
    paid = NOTHING
    while True:
        try:
            reply = await send()
            return reply if paid == NOTHING else replace(reply, wasted=paid)
        except ProviderError as error:
            if paid != NOTHING:
                error.reply = replace(error.reply or Reply("", usage=NOTHING), wasted=paid)
            if error.kind == "empty" and error.reply is not None:
                paid = error.reply.paid
            rates += error.kind == "rate"
            empties += error.kind == "empty"
            failures += error.kind != "rate"
            error.attempts = failures + rates
            wait = draw.uniform(0, min(policy.cap, policy.base * 2 ** (failures + rates - 1)))
            if error.retry_after is not None:
                wait = error.retry_after + draw.uniform(0, policy.base)
            spent = failures >= policy.attempts or empties >= policy.empty or waited + wait > policy.patience
            if not error.retryable or spent:
                raise
            waited += wait
            on_wait(error, wait)
            await asyncio.sleep(wait)


_JITTER = random.Random()
NOTHING = Usage(0, 0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (a number or an HTTP date), None where unreadable."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if value is None else max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(str(value)).timestamp() - time.time())
    except ValueError:
        return None
