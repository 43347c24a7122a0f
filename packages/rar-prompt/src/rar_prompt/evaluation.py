"""Items x conditions: each question is pipelined through its method; nothing waits for a slower question."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from shared_core.errors import InputError, RunError

from rar_prompt.caller import Called, Caller, StoppedError
from rar_prompt.chat import Backend, Message, ProviderError, Request, Sampling
from rar_prompt.drift import drift
from rar_prompt.extract import infer_kind
from rar_prompt.items import Item
from rar_prompt.methods import Plan, Role, Solution
from rar_prompt.prices import BudgetSpentError
from rar_prompt.scoring import Scored, score
from rar_prompt.templates import TemplateSet

T = TypeVar("T")
log = logging.getLogger(__name__)
IN_PROGRESS = 1024  # questions begun and not ended; far more than any endpoint takes at once


@dataclass(frozen=True)
class Condition:
    """A method with the models that carry it out.

    Args:
        plan: the method and its votes.
        responder: answers.
        rephraser: rephrases; the responder by default.
        sampling: of the responder.
        rephrase_sampling: of the rephraser; that of the responder by default.
    """

    plan: Plan
    responder: Backend
    rephraser: Backend | None = None
    sampling: Sampling = field(default_factory=Sampling)
    rephrase_sampling: Sampling | None = None

    @property
    def name(self) -> str:
        """`METHOD / RESPONDER`, and ` < REPHRASER` where another model rephrases."""
        name = f"{self.plan.name} / {self.responder.name}"
        other = self.rephraser is not None and self.rephraser.name != self.responder.name
        return f"{name} < {self.rephraser.name}" if other and self.plan.method.rephrases and self.rephraser else name


def answer_record(item: Item, condition: Condition, sample: int) -> dict[str, Any]:
    """The part of an answer's record that does not depend on replies."""
    other = condition.rephraser if condition.plan.method.rephrases else None
    return {
        "task": item.task,
        "id": item.id,
        "cluster": item.cluster or f"{item.task}/{item.id}",
        "condition": condition.name,
        "method": condition.plan.name,
        "model": condition.responder.name,
        "rephraser": (other or condition.responder).name if condition.plan.method.rephrases else None,
        "sample": sample,
        "question": item.question,
        "gold": item.answer,
    }


async def evaluate(
    items: Sequence[Item],
    conditions: Sequence[Condition],
    templates: TemplateSet,
    caller: Caller,
    *,
    samples: int = 1,
    on_answer: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Answer every item under every condition and score it.

    Args:
        items: of one or several tasks.
        conditions: what is compared.
        templates: the prompts.
        caller: the way to the models; its journal makes a repetition free.
        samples: independent answers per item and condition.
        on_answer: told of each record as it is finished.

    Returns:
        One record per item, condition and sample, in that order. Items that were not reached are left out; then
        `caller.stopping` says why.

    Raises:
        ProviderError: where a wrong key or model makes every call fail; what was finished is in the journal.
    """
    kinds = answer_kinds(items)
    jobs = [(item, condition, sample) for item in items for condition in conditions for sample in range(samples)]
    results: list[dict[str, Any] | None] = [None] * len(jobs)
    fatal: list[RunError] = []
    queue = iter(enumerate(jobs))

    async def work() -> None:
        for place, (item, condition, sample) in queue:
            if caller.stopping:
                return
            try:
                record = await _answer(item, condition, sample, kinds[item.task], templates, caller)
            except (StoppedError, BudgetSpentError) as stop:
                caller.stopping = caller.stopping or str(stop)
                return
            except ProviderError as error:
                fatal.append(error)
                caller.stopping = caller.stopping or str(error)
                return
            if record["error"] and not any(other and other["error"] for other in results):
                log.warning("the first answer that failed: %s (the record of every answer says)", record["error"])
            results[place] = record
            on_answer(record)

    workers = [asyncio.create_task(work()) for _ in range(min(IN_PROGRESS, len(jobs)))]
    await drain(workers, caller)
    if fatal:
        raise fatal[0]
    return [record for record in results if record is not None]


async def drain(workers: Sequence["asyncio.Task[T]"], caller: Caller) -> list[T]:
    """The results of all; on Ctrl-C or an error send nothing more but wait for what is in flight, for it is paid.

    Raises:
        CancelledError: after Ctrl-C (a second one does not wait).
        Exception: the first of a worker.
    """
    gathered = asyncio.gather(*workers)
    try:
        return await asyncio.shield(gathered)
    except asyncio.CancelledError:
        caller.stopping = caller.stopping or "interrupted"
        log.warning("stopping: waiting for the calls in flight, which are paid; press Ctrl-C again not to wait")
        await asyncio.gather(*workers, return_exceptions=True)
        if gathered.done() and not gathered.cancelled():
            gathered.exception()  # seen, so that asyncio does not complain of it
        raise
    except BaseException:
        caller.stopping = caller.stopping or "failed"
        await asyncio.gather(*workers, return_exceptions=True)
        raise


async def _answer(
    item: Item, condition: Condition, sample: int, kind: str, templates: TemplateSet, caller: Caller
) -> dict[str, Any]:
    record = answer_record(item, condition, sample)
    votes = condition.plan.votes
    runs = [_solve(item, condition, sample * votes + vote, templates, caller) for vote in range(votes)]
    solutions, errors = [], []
    for outcome in await asyncio.gather(*runs, return_exceptions=True):
        if isinstance(outcome, Solution):
            solutions.append(outcome)
        elif isinstance(outcome, ProviderError) and not outcome.fatal:
            errors.append(str(outcome))
        else:
            raise outcome
    scored = score(item, kind, solutions) if solutions and not errors else Scored("error", None, "error", 0.0)
    return record | _told(item, scored, solutions, errors)


def _told(item: Item, scored: Scored, solutions: list[Solution], errors: list[str]) -> dict[str, Any]:
    calls = [(stage, called) for solution in solutions for stage, called in solution.calls]
    rephrased = [solution.rephrased for solution in solutions if solution.rephrased is not None]
    separate = any(stage == "rephrase" for stage, _ in calls)
    return {
        "outcome": scored.outcome,
        "extracted": scored.value,
        "rule": scored.rule,
        "agreement": round(scored.agreement, 4),
        "replies": [solution.text for solution in solutions],
        "rephrased": rephrased,
        "drift": drift(item, rephrased[0]) if rephrased and separate else None,
        "error": errors[0] if errors else None,
        "calls": [{"stage": stage, "key": called.key} for stage, called in calls],
        **_totals([called for _, called in calls]),
    }


def _totals(calls: list[Called]) -> dict[str, Any]:
    """What the answer takes, whoever paid for it: a shared rephrasing counts for each of its users."""
    usages = [called.reply.usage for called in calls]
    costs = [called.cost for called in calls]
    known = all(usage.prompt is not None and usage.completion is not None for usage in usages)
    return {
        "prompt_tokens": sum(usage.prompt or 0 for usage in usages) if known else None,
        "completion_tokens": sum(usage.completion or 0 for usage in usages) if known else None,
        "cost": None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs),
        "seconds": round(sum(called.reply.seconds for called in calls), 4),
        "attempts": sum(called.reply.attempts for called in calls),
    }


async def _solve(item: Item, condition: Condition, sample: int, templates: TemplateSet, caller: Caller) -> Solution:
    async def ask(role: Role, stage: str, text: str) -> Called:
        first = role == "rephraser"
        backend = (condition.rephraser or condition.responder) if first else condition.responder
        sampling = (condition.rephrase_sampling or condition.sampling) if first else condition.sampling
        # what was begun is finished first: answers come early, and a stop leaves whole items
        priority = 0 if first or not condition.plan.method.rephrases else -1
        request = Request((Message("user", text),), sampling, sample, priority=priority)
        return await caller.call(backend, request, task=item.task, item=item.id, stage=stage)

    return await condition.plan.method.solve(item, templates, ask)


def answer_kinds(items: Sequence[Item]) -> dict[str, str]:
    """The answer kind of each task; a task's items are read alike.

    Raises:
        InputError: if a task mixes kinds.
    """
    tasks: dict[str, list[Item]] = {}
    for item in items:
        tasks.setdefault(item.task, []).append(item)
    kinds = {}
    for task, members in tasks.items():
        named = {item.kind for item in members if item.kind}
        if len(named) > 1:
            raise InputError(f"task {task} mixes the kinds {', '.join(sorted(named))}; give them different task names")
        kinds[task] = named.pop() if named else infer_kind(members)
    return kinds


def warn_if_greedy(samples: int, sampling: Sampling) -> None:
    """Several samples at temperature 0 are one sample, paid several times."""
    if samples > 1 and sampling.temperature == 0:
        log.warning("several samples at temperature 0 are mostly the same reply; give --sampling.temperature 0.7 or so")


def with_exemplars(items: Sequence[Item], exemplars: tuple[tuple[str, str], ...]) -> Iterator[Item]:
    """The items with the same worked examples."""
    return (replace(item, exemplars=exemplars) for item in items)
