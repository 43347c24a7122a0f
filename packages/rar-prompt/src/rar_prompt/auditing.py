"""`audit`: which questions are read differently from one rephrasing to the next, or from one model to another.

A large gain by rephrasing marks a question that leaves its meaning open (a remark of the paper). Each question is
rephrased K times by every model, every rephrasing is answered, and questions are ranked by how far the answers scatter.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rar_prompt.caller import Caller
from rar_prompt.chat import Backend, Message, ProviderError, Request, Sampling
from rar_prompt.evaluation import answer_kinds, drain
from rar_prompt.extract import EXTRACTORS, normal_gold
from rar_prompt.items import Item
from rar_prompt.templates import TemplateSet, clean_rephrasing


def disagreement(answers: Sequence[str]) -> float:
    """Normalised entropy of the answers: -sum p log p / log n, 0 where all agree, 1 where all n differ."""
    n = len(answers)
    if n < 2:
        return 0.0
    shares = [count / n for count in Counter(answers).values()]
    return max(0.0, -sum(p * math.log(p) for p in shares) / math.log(n))


async def audit(
    items: Sequence[Item],
    models: Sequence[Backend],
    templates: TemplateSet,
    caller: Caller,
    *,
    rephrasings: int = 5,
    sampling: Sampling = Sampling(temperature=1.0),
) -> list[dict[str, Any]]:
    """Rank questions by the disagreement between their readings, the most ambiguous first.

    Args:
        items: the questions; golds are optional.
        models: each rephrases and answers for itself.
        templates: the prompts.
        caller: the way to the models.
        rephrasings: K per model.
        sampling: of rephrasings; answers take the same settings at temperature 0, so that what scatters is the reading.

    Returns:
        One row per question: `disagreement` in [0, 1], `readings` (each answer with its share and one rephrasing that
        led to it), `plain` (the answer without rephrasing), `unparsed` and `failed` counts, and where there is a gold
        `gain` (share of right answers minus plain's).
    """
    kinds = answer_kinds(items)
    greedy = Sampling(0.0, None, sampling.max_tokens, sampling.seed)

    async def reading(item: Item, model: Backend, sample: int) -> tuple[str, str | None]:
        first = await _text(caller, model, templates.render("rephrase", item), sampling, sample, item, "rephrase")
        rephrased = clean_rephrasing(first or "")
        if not rephrased:
            return "", None
        text = templates.render("respond", item, x=rephrased)
        reply = await _text(caller, model, text, greedy, 0, item, "respond")
        return rephrased, None if reply is None else EXTRACTORS[kinds[item.task]](reply, item).value or "(unparsed)"

    async def one(item: Item) -> dict[str, Any]:
        readings = [(m, s) for m in models for s in range(rephrasings)]
        found = await asyncio.gather(*(reading(item, model, sample) for model, sample in readings))
        plain = await asyncio.gather(
            *(_text(caller, model, templates.render("plain", item), greedy, 0, item, "plain") for model in models)
        )
        read = [EXTRACTORS[kinds[item.task]](text, item).value for text in plain if text is not None]
        return _row(item, kinds[item.task], list(found), read)

    rows = await drain([asyncio.create_task(one(item)) for item in items], caller)
    return sorted(rows, key=lambda row: -row["disagreement"])


def _row(item: Item, kind: str, found: list[tuple[str, str | None]], plain: list[str | None]) -> dict[str, Any]:
    answers = [value for _, value in found if value is not None]
    counts = Counter(answers)
    readings = [
        {"answer": value, "share": round(count / len(answers), 4), "as": next(x for x, v in found if v == value)}
        for value, count in counts.most_common()
    ]
    row = {
        "task": item.task,
        "id": item.id,
        "question": item.question,
        "disagreement": round(disagreement(answers), 4),
        "readings": readings,
        "plain": plain,
        "unparsed": counts["(unparsed)"],
        "failed": len(found) - len(answers),
        "gold": item.answer,
    }
    if item.answer is not None and answers and plain:
        gold = normal_gold(item, kind)
        row["gain"] = round(counts[gold] / len(answers) - plain.count(gold) / len(plain), 4)
    return row


async def _text(
    caller: Caller, model: Backend, text: str, sampling: Sampling, sample: int, item: Item, stage: str
) -> str | None:
    """The reply, or None where it failed or was cut off (nothing can be read from it)."""
    request = Request((Message("user", text),), sampling, sample)
    try:
        called = await caller.call(model, request, task=item.task, item=item.id, stage=stage)
    except ProviderError as error:
        if error.fatal:
            raise
        return None
    return None if called.reply.truncated else called.reply.text


def audit_table(rows: list[dict[str, Any]], top: int = 20) -> dict[str, Any]:
    """The head of the ranking for a terminal or a page."""
    cells = [
        [
            f"{row['disagreement']:.2f}",
            row["question"][:100],
            "; ".join(f"{r['answer']} {100 * r['share']:.0f} %" for r in row["readings"][:4]) or "-",
            " | ".join(r["as"][:90] for r in row["readings"][:2]),
        ]
        for row in rows[:top]
    ]
    heads = ["disagreement", "question", "answers", "read as"]
    return {"title": "Questions by disagreement between their readings", "heads": heads, "rows": cells, "note": ""}
