"""Claims on the constructed ambiguity: models trained here that misread a question by design."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from shared_core.claims import Context, Measurement

from rar_prompt.ambiguity import Ambiguity, TrainingSettings, questions, train
from rar_prompt.backends.local import LocalModel
from rar_prompt.caller import Caller
from rar_prompt.chat import Sampling
from rar_prompt.evaluation import Condition, evaluate
from rar_prompt.methods import plan
from rar_prompt.reproduce.registry import claims
from rar_prompt.statistics import compare
from rar_prompt.summary import Records, group, pair
from rar_prompt.templates import load_templates

log = logging.getLogger(__name__)
STRONG, WEAK = Ambiguity(rephrased=0.95), Ambiguity(rephrased=0.55)
STEPS, WEAK_STEPS = 800, 360
PREDICTED = {
    "plain": "plain",
    "cot": "cot",
    "one-step": "rar",
    "two-step": "rar",
    "one-step-cot": "rar-cot",
    "two-step-cot": "rar-cot",
}
WHERE = "constructed task of this package (no large model); mechanism of sections 1 and 2"
NOTE = (
    "constructed: models of 0.14 million weights, trained from scratch on a corpus that misreads by design; it shows "
    "the mechanism, not that large models behave so. Settings: those planned (800 steps, weak 360), after a look at "
    "three step counts (250, 400, 800) on seed 100, which no figure uses"
)


def _seeds(context: Context) -> list[int]:
    return [context.seed + index for index in range(context.at(1, 3, 5))]


def _model(context: Context, seed: int, weak: bool) -> LocalModel:
    """A trained model, kept in the run folder."""
    name = f"{'weak' if weak else 'strong'}-{seed}"
    return context.memo(("model", name), lambda: _trained(context, name, seed, weak))


def _trained(context: Context, name: str, seed: int, weak: bool) -> LocalModel:
    from rar_prompt.ambiguity import make_tokenizer

    folder = Path(context.folder.path, "models", name)
    if (folder / "finished").exists():
        from transformers import LlamaForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        model, tokenizer = LlamaForCausalLM.from_pretrained(str(folder)), make_tokenizer()
    else:
        log.info("training %s", name)
        # the weak model gets a seed of its own, apart from every strong one
        steps = context.at(30, WEAK_STEPS if weak else STEPS, WEAK_STEPS if weak else STEPS)
        ambiguity = WEAK if weak else STRONG
        model, tokenizer = train(ambiguity, TrainingSettings(steps=steps), seed + (1000 if weak else 0))
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        (folder / "finished").write_text("whole\n")
    return LocalModel(model, tokenizer, name=name, batch_size=64, device=str(context.device))


def _records(context: Context, seed: int, *, temperature: float, clear: bool = False) -> Records:
    """All six methods of a strong model on fresh questions (three where the questions are clear)."""

    def make() -> Records:
        backend = _model(context, seed, weak=False)
        names = ("plain", "cot", "two-step") if clear else PREDICTED
        return _ask(context, [(name, backend, backend) for name in names], seed, temperature, clear)

    return context.memo(("records", seed, temperature, clear), make)


def _ask(context: Context, wanted: list[Any], seed: int, temperature: float, clear: bool) -> Records:
    templates = load_templates("paper")
    sampling = Sampling(temperature=temperature, max_tokens=40)
    conditions = [Condition(plan(name, templates), model, other, sampling) for name, model, other in wanted]
    items = questions(context.at(30, 300, 1000), seed, clear=clear)

    async def run() -> Records:
        records = await evaluate(items, conditions, templates, Caller(templates=templates.hash))
        for _, model, other in wanted:  # the loop ends here, and with it the batches
            await model.close()
            await other.close()
        return records

    return asyncio.run(run())


def _accuracy(records: Records) -> dict[str, float]:
    return {
        method: sum(record["outcome"] == "correct" for record in rows) / len(rows)
        for (method,), rows in group(records, "method").items()
    }


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def _p(records: Records, first: str, second: str) -> tuple[float, float]:
    """(gain, p) of one method over another on the same questions."""
    by_method = group(records, "method")
    before, after, _ = pair(by_method[first,], by_method[second,])
    found = compare(before, after)
    return found.difference, found.p


def _decided(context: Context, holds: bool) -> bool | None:
    return None if context.scale == "smoke" else holds


def _note(context: Context, more: str = "") -> str:
    few = "; smoke: one seed, 30 steps of training, nothing can be decided" if context.scale == "smoke" else ""
    return f"{NOTE}; seeds {', '.join(map(str, _seeds(context)))}{more}{few}"


@claims.add(
    "constructed-plain-fails",
    statement="A model that reads a question in another frame fails on it, and steps do not repair the reading.",
    where=WHERE,
    quantity="greedy accuracy of plain prompting and of chain of thought (chance 0.5), mean over seeds",
    expected="<= 0.15 for both in every seed",
)
def plain_fails(context: Context) -> Measurement:
    """Plain and chain-of-thought accuracy on ambiguous questions."""
    rows = [_accuracy(_records(context, seed, temperature=0.0)) for seed in _seeds(context)]
    values = [max(row["plain"], row["cot"]) for row in rows]
    mean = _mean([{"plain": row["plain"], "cot": row["cot"]} for row in rows])
    figure = context.save_figure("constructed-greedy", _bars(rows, "greedy accuracy"))
    return Measurement(
        mean, _decided(context, max(values) <= 0.15), (min(values), max(values)), _note(context), (figure,)
    )


@claims.add(
    "constructed-rar-helps",
    statement="Restating the question first, in one step or two, repairs the reading.",
    where=WHERE,
    quantity="greedy accuracy minus plain's on the same questions, mean over seeds",
    expected="> 0 with exact McNemar p < 0.05, for one-step and two-step in every seed",
)
def rar_helps(context: Context) -> Measurement:
    """One-step and two-step against plain."""
    tests = [
        {name: _p(_records(context, seed, temperature=0.0), "plain", name) for name in ("one-step", "two-step")}
        for seed in _seeds(context)
    ]
    gains = [gain for row in tests for gain, _ in row.values()]
    holds = all(gain > 0 and p < 0.05 for row in tests for gain, p in row.values())
    mean = _mean([{name: gain for name, (gain, _) in row.items()} for row in tests])
    worst = max(p for row in tests for _, p in row.values())
    return Measurement(
        mean, _decided(context, holds), (min(gains), max(gains)), _note(context, f"; largest p {worst:.2g}")
    )


@claims.add(
    "constructed-rar-cot-best",
    statement="Rephrasing and steps complement each other: RaR with chain of thought is the best method.",
    where=WHERE,
    quantity="greedy accuracy of two-step RaR with steps minus that of plain, cot, one-step and two-step: the least",
    expected="> 0 with exact McNemar p < 0.05 against each of the four, in every seed",
)
def rar_cot_best(context: Context) -> Measurement:
    """RaR with steps against everything without one of both."""
    others = ("plain", "cot", "one-step", "two-step")
    tests = [
        {name: _p(_records(context, seed, temperature=0.0), name, "two-step-cot") for name in others}
        for seed in _seeds(context)
    ]
    gains = [min(gain for gain, _ in row.values()) for row in tests]
    holds = all(gain > 0 and p < 0.05 for row in tests for gain, p in row.values())
    worst = max(p for row in tests for _, p in row.values())
    accuracy = _mean([_accuracy(_records(context, seed, temperature=0.0)) for seed in _seeds(context)])
    note = _note(context, f"; largest p {worst:.2g}; mean accuracies {accuracy}")
    return Measurement(sum(gains) / len(gains), _decided(context, holds), (min(gains), max(gains)), note)


@claims.add(
    "constructed-transfer",
    statement="A weak model gains from a strong model's rephrasings.",
    where=f"{WHERE}; the paper's transfer to Vicuna",
    quantity="weak responder, two-step, sampled: accuracy with its own and with the strong model's rephrasings",
    expected="strong above own with exact McNemar p < 0.05 in every seed",
)
def transfer(context: Context) -> Measurement:
    """accuracy[rephraser][weak responder]."""
    rows, tests = [], []
    for seed in _seeds(context):
        weak, strong = _model(context, seed, weak=True), _model(context, seed, weak=False)
        wanted = [("two-step", weak, weak), ("two-step", weak, strong)]
        records = _ask(context, wanted, seed, 1.0, False)
        own, other = (group(records, "rephraser")[name,] for name in (weak.name, strong.name))
        before, after, _ = pair(own, other)
        tests.append(compare(before, after))
        rows.append({"own": sum(before) / len(before), "strong": sum(after) / len(after)})
    gains = [test.difference for test in tests]
    holds = all(test.difference > 0 and test.p < 0.05 for test in tests)
    note = _note(context, f"; largest p {max(test.p for test in tests):.2g}")
    return Measurement(_mean(rows), _decided(context, holds), (min(gains), max(gains)), note)


@claims.add(
    "constructed-closed-form",
    statement="Accuracies follow the law of total probability over the frames: plain = pi.a, CoT = pi.b, RaR = rho.a, "
    "RaR with CoT = rho.b.",
    where="frame model (notation of the project page's figure; the closed form is this package's)",
    quantity="largest distance over six methods between sampled accuracy (mean over seeds) and the closed form "
    "with the corpus's pi, rho and the a, b measured on unambiguous questions",
    expected="<= 0.06",
)
def closed_form(context: Context) -> Measurement:
    """Six sampled accuracies against the frame model."""
    measured = _mean([_accuracy(_records(context, seed, temperature=1.0)) for seed in _seeds(context)])
    clear = _mean([_accuracy(_records(context, seed, temperature=1.0, clear=True)) for seed in _seeds(context)])
    model = STRONG.frame_model(direct=clear["plain"], stepwise=clear["cot"])
    predicted = {name: model.accuracy(kind) for name, kind in PREDICTED.items()}
    apart = {name: abs(measured[name] - predicted[name]) for name in PREDICTED}
    figure = context.save_figure("constructed-closed-form", _predicted(measured, predicted))
    worst = max(apart.values())
    shown = ", ".join(f"{name} {measured[name]:.3f} ({predicted[name]:.3f})" for name in PREDICTED)
    return Measurement(
        worst, _decided(context, worst <= 0.06), (min(apart.values()), worst), _note(context, f"; {shown}"), (figure,)
    )


@claims.add(
    "constructed-control",
    statement="Where the question says itself what is meant, rephrasing changes nothing.",
    where="frame model: the gain is (m - pi).a, zero without ambiguity",
    quantity="sampled accuracy of two-step RaR minus plain on unambiguous questions, mean over seeds",
    expected="within 0.06 of 0",
)
def control(context: Context) -> Measurement:
    """The gain on questions without ambiguity."""
    gains = [_p(_records(context, s, temperature=1.0, clear=True), "plain", "two-step")[0] for s in _seeds(context)]
    mean = sum(gains) / len(gains)
    return Measurement(mean, _decided(context, abs(mean) <= 0.06), (min(gains), max(gains)), _note(context))


def _bars(rows: list[dict[str, float]], label: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    mean = _mean(rows)
    axes.bar(list(mean), list(mean.values()), color="#bee3f8")
    for row in rows:
        axes.plot(list(row), list(row.values()), "o", color="#2b6cb0", markersize=4)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":", label="chance")
    axes.set(ylim=(0, 1.05), ylabel=f"{label} (bar: mean, points: seeds)", title="constructed task")
    axes.legend()
    return figure


def _predicted(measured: dict[str, float], predicted: dict[str, float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#a0aec0", linewidth=1, label="measured = predicted")
    for place, name in enumerate(measured):
        axes.plot(predicted[name], measured[name], "o", label=f"{place + 1} {name}")
        axes.annotate(
            str(place + 1),
            (predicted[name], measured[name]),
            xytext=(-12 if place % 2 else 6, -4),
            textcoords="offset points",
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="closed form", ylabel="sampled accuracy", title="constructed task")
    axes.legend(loc="lower right")
    return figure
