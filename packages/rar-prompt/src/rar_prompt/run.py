"""A run folder: the same command goes on where it was killed, another configuration is refused."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from shared_core.errors import InputError, RunError
from shared_core.files import write_text
from shared_core.logging import progress
from shared_core.run_folder import RunFolder, read_config

from rar_prompt.backends.open import Endpoint, open_backend, read_models
from rar_prompt.caller import Caller
from rar_prompt.chat import Backend, Sampling, Usage
from rar_prompt.evaluation import Condition, answer_kinds, evaluate, warn_if_greedy, with_exemplars
from rar_prompt.generators import GENERATORS, GenOptions, generate
from rar_prompt.items import Item, check_unique
from rar_prompt.journal import Journal
from rar_prompt.methods import plan
from rar_prompt.prices import Budget, load_prices
from rar_prompt.readers import read_exemplars, read_items
from rar_prompt.settings import RunSettings, Spending
from rar_prompt.summary import summarise
from rar_prompt.templates import load_templates

log = logging.getLogger(__name__)
T = TypeVar("T")


def load_tasks(settings: RunSettings) -> list[Item]:
    """The questions of all tasks.

    Raises:
        InputError: for an unknown task or a bad file.
    """
    items: list[Item] = []
    if settings.samples < 1 or (settings.n is not None and settings.n < 1):
        raise InputError(f"n and samples must be at least 1, got {settings.n} and {settings.samples}")
    for task in settings.tasks:
        if task in GENERATORS:
            items += generate(task, settings.n, settings.seed, settings.gen)
        elif Path(task).suffix or Path(task).exists():
            items += read_items(task)[: settings.n]
        else:
            raise InputError(f"there is no task {task!r}: give a file, or one of {', '.join(GENERATORS)}")
    check_unique(items, "--tasks")
    if settings.exemplars:
        items = list(with_exemplars(items, read_exemplars(settings.exemplars)))
    return items


def run_to_folder(
    settings: RunSettings,
    out: str | Path | None = None,
    *,
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    spending: Spending = Spending(),
) -> dict[str, Any]:
    """Carry out a run, or go on with it, and write `records.jsonl`, `result.json` and `report.html`.

    Args:
        settings: what is asked; a folder with other settings is refused.
        out: run folder; None for the default one.
        endpoint: how models are reached; may differ on resume.
        models: file of named models.
        spending: prices and budget; may differ on resume.

    Returns:
        The content of `result.json`, and `folder`; `stopped` says why questions are left, where some are.

    Raises:
        InputError: for bad input, before anything is paid.
        RunError: where no call can succeed (wrong key, unknown model); finished calls are kept.
    """
    templates = load_templates(settings.templates)
    plans = [plan(name, templates) for name in settings.methods]
    items = load_tasks(settings)
    prices = load_prices(spending.prices)
    backends = {name: open_backend(name, endpoint, models) for name in {*settings.models, *settings.rephrasers}}
    conditions = make_conditions(settings, plans, backends)
    # all that can be refused is refused here, before there is a folder and before anything is paid
    answer_kinds(items)
    for item in items:
        for each in plans:
            each.method.check(item)
    if spending.max_cost is not None:
        prices.require([backend.name for backend in backends.values()])
    warn_if_greedy(max(settings.samples, *(each.votes for each in plans)), settings.sampling)
    whole = {"verb": "run", **asdict(settings), **_hashes(settings, items, templates.hash, models)}
    with RunFolder(out, package="rar-prompt", settings=whole) as folder:
        write_text(folder.path / "session.json", json.dumps(_session(endpoint, models, spending), indent=2) + "\n")
        journal = Journal(folder.path / "calls.jsonl")
        try:
            known = _spent(journal)
            budget = Budget(spending.max_total_tokens, spending.max_cost, *known)
            patience = max(8, *(backend.concurrency for backend in backends.values()))
            caller = Caller(journal, templates.hash, prices, budget, give_up=patience)
            records, elapsed = asyncio.run(_evaluate(items, conditions, templates, caller, settings, backends))
        finally:
            journal.close()
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_text(folder.path / "records.jsonl", lines)
        result = {
            "package": "rar-prompt",
            "templates": {"id": templates.id, "version": templates.version, "hash": templates.hash},
            "questions": len(items) * len(conditions) * settings.samples,
            "answered": len(records),
            "stopped": caller.stopping or None,
            "first_error": next((record["error"] for record in records if record["error"]), None),
            "session": asdict(caller.counts) | {"seconds": round(elapsed, 2)},
            "spent": {"tokens": budget.tokens, "cost": budget.cost, "unpriced_calls": caller.counts.unpriced},
            **summarise(records),
        }
        folder.write_json("result.json", result)
        from rar_prompt.report import write_report

        write_report(folder.path, result, records)
    return {"folder": str(folder.path)} | result


async def _evaluate(
    items: Sequence[Item],
    conditions: list[Condition],
    templates: Any,
    caller: Caller,
    settings: RunSettings,
    backends: dict[str, Backend],
) -> tuple[list[dict[str, Any]], float]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    total = len(items) * len(conditions) * settings.samples
    ticks = iter(progress(range(total), "answers", total))

    def tick(record: dict[str, Any]) -> None:
        next(ticks, None)

    try:
        records = await evaluate(items, conditions, templates, caller, samples=settings.samples, on_answer=tick)
    finally:
        for backend in backends.values():
            await backend.close()
    for _ in () if caller.stopping else ticks:
        pass
    return records, loop.time() - start


def make_conditions(settings: RunSettings, plans: Sequence[Any], backends: dict[str, Backend]) -> list[Condition]:
    """Every method with every responder; methods that rephrase with every rephraser."""
    conditions = []
    for each in plans:
        for model in settings.models:
            others = settings.rephrasers if each.method.rephrases and settings.rephrasers else (model,)
            conditions += [
                Condition(each, backends[model], backends[other], settings.sampling, settings.rephrase_sampling)
                for other in others
            ]
    names = [condition.name for condition in conditions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"the condition {twice!r} occurs twice; give each method and model once")
    return conditions


def resume(folder: str | Path, *, endpoint: Endpoint = Endpoint(), spending: Spending = Spending()) -> dict[str, Any]:
    """Go on with the run in `folder`, with its own settings.

    Args:
        folder: a run folder.
        endpoint: other limits; what is left at its default is as in the last session.
        spending: another budget; the same.

    Raises:
        InputError: if the folder holds no run of `rar-prompt run`, or its files changed since.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} holds no run (no config.yaml)")
    raw = read_config(path / "config.yaml").get("settings") or {}
    if raw.get("verb") != "run":
        raise InputError(f"{path} holds a {raw.get('verb', 'foreign')} run; resume goes on with `rar-prompt run`")
    session = json.loads((path / "session.json").read_text()) if (path / "session.json").is_file() else {}
    return run_to_folder(
        settings_from(raw),
        path,
        endpoint=_changed(Endpoint(**session.get("endpoint", {})), endpoint),
        models=session.get("models"),
        spending=_changed(Spending(**session.get("spending", {})), spending),
    )


def _changed(last: T, now: T) -> T:
    """The last session's values, and those of `now` that differ from the defaults."""
    default = type(now)()
    names = [field.name for field in fields(now)]  # type: ignore[arg-type]
    given = {name: getattr(now, name) for name in names if getattr(now, name) != getattr(default, name)}
    return replace(last, **given)  # type: ignore[type-var]


def settings_from(raw: dict[str, Any]) -> RunSettings:
    """The settings of a `config.yaml`."""
    values = {name: raw[name] for name in RunSettings.__dataclass_fields__ if name in raw}
    for name in ("tasks", "methods", "models", "rephrasers"):
        values[name] = tuple(values[name])
    values["sampling"] = Sampling(**values["sampling"])
    values["rephrase_sampling"] = Sampling(**values["rephrase_sampling"]) if values["rephrase_sampling"] else None
    values["gen"] = GenOptions(**values["gen"])
    return RunSettings(**values)


def _hashes(settings: RunSettings, items: list[Item], templates: str, models: str | None) -> dict[str, Any]:
    """What the names in the settings stood for: a changed file is another run."""
    content = json.dumps([asdict(item) for item in items], ensure_ascii=False)
    named: dict[str, Any] = {}
    if models:
        entries = read_models(models)
        used = [name for name in (*settings.models, *settings.rephrasers) if name in entries]
        named = {name: {key: entries[name].get(key) for key in ("model", "extra")} for name in used}
    return {
        "questions_hash": hashlib.sha256(content.encode()).hexdigest()[:16],
        "templates_hash": templates,
        "named_models": named,
    }


def _session(endpoint: Endpoint, models: str | None, spending: Spending) -> dict[str, Any]:
    absolute = str(Path(models).resolve()) if models else None
    return {"endpoint": asdict(endpoint), "models": absolute, "spending": asdict(spending)}


def _spent(journal: Journal) -> tuple[int, float]:
    """Tokens and money of every paid call of earlier sessions."""
    tokens, cost = 0, 0.0
    for record in journal.records():
        for usage in (record.get("usage"), record.get("wasted")):
            tokens += Usage(**usage).total if usage else 0
        cost += (record.get("cost") or 0.0) + (record.get("wasted_cost") or 0.0)
    return tokens, cost


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """The answers of a run.

    Raises:
        InputError: if the folder holds none, or a line cannot be read.
    """
    file = Path(folder) / "records.jsonl"
    if not file.is_file():
        raise InputError(f"{folder} holds no records.jsonl: the run is not finished (rar-prompt resume {folder})")
    records = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{file}, line {number}: not JSON") from error
    return records


def check_finished(result: dict[str, Any]) -> int:
    """0 where every question has an answer, else 1, for the exit code.

    Raises:
        RunError: if the run stopped early, saying why.
    """
    if result["stopped"]:
        left = result["questions"] - result["answered"]
        raise RunError(f"stopped: {result['stopped']}; {left} answers are left, resume goes on")
    return int(any(row["outcomes"].get("error") for row in result["conditions"]))
