"""One question, or many rephrasings, without a run folder."""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.files import write_text
from shared_core.logging import progress

from rar_prompt.caller import Called, Caller
from rar_prompt.chat import Backend, Message, ProviderError, Request, Sampling
from rar_prompt.evaluation import Condition, answer_record, drain, warn_if_greedy
from rar_prompt.extract import EXTRACTORS, infer_kind
from rar_prompt.items import Item, check_item
from rar_prompt.journal import Journal
from rar_prompt.methods import Plan, Role, Solution
from rar_prompt.prices import Prices
from rar_prompt.templates import TemplateSet, clean_rephrasing


def ask_one(
    question: str,
    plan: Plan,
    responder: Backend,
    rephraser: Backend | None = None,
    *,
    templates: TemplateSet,
    sampling: Sampling = Sampling(),
    choices: Sequence[str] = (),
    kind: str | None = None,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """Ask one question by one method.

    Returns:
        `rephrased` (None where there is no separate one), `answer` (the last reply), `read` (its final answer where a
        kind says how to read it), tokens, cost, seconds, and whether the reply was cut off.

    Raises:
        InputError: for an empty question or impossible choices.
        ProviderError: if the model gives no usable reply.
    """
    item = check_item(Item("question", question, choices=tuple(choices), kind=kind), "question")
    warn_if_greedy(plan.votes, sampling)
    condition = Condition(plan, responder, rephraser, sampling)
    caller = Caller(templates=templates.hash, prices=prices or Prices({}))
    solutions = run_async(_solve_all(item, condition, templates, caller), [responder, rephraser])
    last = solutions[0]
    how = kind or ("choice" if choices else None)
    return {
        "question": question,
        "method": plan.name,
        "model": responder.name,
        "rephraser": answer_record(item, condition, 0)["rephraser"],
        "rephrased": last.rephrased,
        "answer": last.text,
        "read": EXTRACTORS[how](last.text, item).value if how else None,
        "answers": [solution.text for solution in solutions] if len(solutions) > 1 else None,
        "truncated": last.truncated,
        "prompt_tokens": sum(c.reply.usage.prompt or 0 for s in solutions for _, c in s.calls),
        "completion_tokens": sum(c.reply.usage.completion or 0 for s in solutions for _, c in s.calls),
        "cost": None if caller.counts.unpriced else caller.counts.cost,
        "seconds": round(sum(c.reply.seconds for s in solutions for _, c in s.calls), 3),
    }


async def _solve_all(item: Item, condition: Condition, templates: TemplateSet, caller: Caller) -> list[Solution]:
    async def solve(sample: int) -> Solution:
        async def ask(role: Role, stage: str, text: str) -> Called:
            backend = (condition.rephraser or condition.responder) if role == "rephraser" else condition.responder
            request = Request((Message("user", text),), condition.sampling, sample)
            return await caller.call(backend, request, stage=stage)

        return await condition.plan.method.solve(item, templates, ask)

    return list(await asyncio.gather(*(solve(vote) for vote in range(condition.plan.votes))))


def rephrase_file(
    items: Sequence[Item],
    rephraser: Backend,
    out: str | Path,
    *,
    templates: TemplateSet,
    sampling: Sampling = Sampling(),
    samples: int = 1,
) -> dict[str, Any]:
    """Rephrase every question and write them, with `rephrased`, as a task file for `respond` or `run`.

    Calls are recorded in `OUT.calls.jsonl`, so that the same command goes on after a kill.

    Returns:
        How many questions, failures, and rates of bad rephrasings.
    """
    from rar_prompt.drift import drift

    target = Path(out)
    if target.suffix != ".jsonl":
        raise InputError(f"--out {target}: give a .jsonl file")
    journal = Journal(target.with_name(target.name + ".calls.jsonl"))
    caller = Caller(journal, templates.hash, give_up=max(8, rephraser.concurrency))
    ticks = iter(progress(range(len(items) * samples), "rephrasings"))

    async def one(item: Item, sample: int) -> tuple[Item, int, str | None, str]:
        request = Request((Message("user", templates.render("rephrase", item)),), sampling, sample)
        try:
            called = await caller.call(rephraser, request, task=item.task, item=item.id, stage="rephrase")
        except ProviderError as error:
            if error.fatal:
                raise
            return item, sample, None, str(error)
        finally:
            next(ticks, None)
        cut = called.reply.truncated
        return item, sample, None if cut else clean_rephrasing(called.reply.text), "truncated" if cut else ""

    async def every() -> list[tuple[Item, int, str | None, str]]:
        tasks = [asyncio.create_task(one(item, sample)) for item in items for sample in range(samples)]
        return await drain(tasks, caller)

    try:
        found = run_async(every(), [rephraser])
    finally:
        journal.close()
    rows, flags = [], []
    for item, sample, text, _ in found:
        if text is not None:
            flags.append(drift(item, text))
            rows.append(_row(item, sample if samples > 1 else None) | {"rephrased": text, "rephraser": rephraser.name})
    write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    rates = {name: round(sum(flag[name] for flag in flags) / len(flags), 4) for name in flags[0]} if flags else {}
    errors = [error for *_, text, error in found if text is None]
    return {"rephrasings": len(rows), "failed": len(errors), "first failure": errors[0] if errors else None, **rates}


def item_row(item: Item) -> dict[str, Any]:
    """An item as a line of a task file."""
    return _row(item, None)


def _row(item: Item, sample: int | None) -> dict[str, Any]:
    names = ("id", "question", "answer", "choices", "context", "task", "kind", "spec", "rephrased", "cluster")
    row = {name: getattr(item, name) for name in names if getattr(item, name) not in (None, "", ())}
    return row if sample is None else row | {"id": f"{item.id}/{sample}", "cluster": item.cluster or item.id}


def write_items(items: Sequence[Item], out: str | Path) -> None:
    """Write a task file that `readers.read_items` reads back."""
    if Path(out).suffix != ".jsonl":
        raise InputError(f"--out {out}: give a .jsonl file")
    write_text(out, "".join(json.dumps(_row(item, None), ensure_ascii=False) + "\n" for item in items))


def run_async(work: Coroutine[Any, Any, Any], backends: Sequence[Backend | None]) -> Any:
    """The result of `work`, in an event loop of its own; the backends are closed at the end.

    Where a loop runs already, `await` the work and each backend's `close()` instead.
    """

    async def whole() -> Any:
        try:
            return await work
        finally:
            for backend in backends:
                if backend is not None:
                    await backend.close()

    return asyncio.run(whole())


def score_rows(items: Sequence[Item], replies: dict[str, str]) -> list[dict[str, Any]]:
    """Outcomes of replies that were made elsewhere, by item id.

    Args:
        items: the questions with their golds.
        replies: text by item id; an item without one counts as an error.
    """
    from rar_prompt.scoring import Scored, score

    kind = next((item.kind for item in items if item.kind), None) or infer_kind(list(items))
    rows = []
    for item in items:
        text = replies.get(item.id)
        scored = Scored("error", None, "no reply") if text is None else score(item, kind, [Solution(text, False)])
        rows.append(
            {"task": item.task, "id": item.id, "outcome": scored.outcome, "extracted": scored.value}
            | {"rule": scored.rule, "gold": item.answer, "question": item.question, "reply": text}
        )
    return rows
