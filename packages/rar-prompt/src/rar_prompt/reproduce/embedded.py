"""The embedded real model, end to end: it runs, and it is too weak to show the effect."""

import asyncio
from typing import Any

from shared_core.claims import Context, Measurement

from rar_prompt.backends.smollm2 import HINT, find_smollm2, load_smollm2
from rar_prompt.caller import Caller
from rar_prompt.chat import Sampling
from rar_prompt.evaluation import Condition, evaluate
from rar_prompt.generators import GenOptions, generate
from rar_prompt.methods import plan
from rar_prompt.reproduce.registry import claims
from rar_prompt.summary import condition_rows
from rar_prompt.templates import load_templates

METHODS = ("plain", "one-step", "two-step")


@claims.add(
    "embedded-model",
    statement="RaR helps strong models; the embedded SmolLM2-135M-Instruct runs every stage and is too weak for it.",
    where="the paper's own 13B model gains little; none of its models is this small",
    quantity="accuracy on coin questions of two people, with Wilson intervals in the note (chance 0.5)",
    expected="none: a run of the whole pipeline, not a test of the paper",
)
def embedded_model(context: Context) -> Measurement:
    """Plain, one-step and two-step with a real model, counted whatever comes out."""
    if context.scale == "smoke":
        return Measurement({"questions": 0}, None, note="smoke: loading the model alone takes longer than the rest")
    if find_smollm2() is None:
        return Measurement({"questions": 0}, None, note=f"the embedded model is not installed: {HINT}")
    rows = asyncio.run(_run(context))
    measured = {row["method"]: round(row["accuracy"], 4) for row in rows}
    note = "; ".join(
        f"{row['method']}: {row['low']:.2f} .. {row['high']:.2f}, outcomes {row['outcomes']}" for row in rows
    )
    return Measurement(measured, None, note=f"too weak to show the effect, as expected of 135M weights; {note}")


async def _run(context: Context) -> list[dict[str, Any]]:
    backend = load_smollm2(batch_size=16, device=str(context.device))
    templates = load_templates("paper")
    sampling = Sampling(max_tokens=64)
    conditions = [Condition(plan(name, templates), backend, sampling=sampling) for name in METHODS]
    items = generate("coin-flip", context.at(4, 8, 100), context.seed, GenOptions())
    records = await evaluate(items, conditions, templates, Caller(templates=templates.hash))
    await backend.close()
    return condition_rows(records)
