"""From records to tables: accuracy with intervals, coverage, paired comparisons, cost, drift."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from rar_prompt.scoring import OUTCOMES
from rar_prompt.statistics import accuracy_interval, best_of, compare, holm

Records = list[dict[str, Any]]


def summarise(records: Records) -> dict[str, Any]:
    """All tables of a run.

    Returns:
        `conditions` (one row per task and condition), `comparisons` (each condition with the plain one of its
        responder, Holm over all of them), `best` (the best variant per task and responder, corrected for the choice),
        `drift` (rates of bad rephrasings per rephraser).
    """
    return {
        "conditions": condition_rows(records),
        "comparisons": against_plain(records),
        "best": best_rows(records),
        "drift": drift_rows(records),
    }


def group(records: Records, *keys: str) -> dict[tuple[Any, ...], Records]:
    """Records by the values of `keys`, in their order."""
    groups: dict[tuple[Any, ...], Records] = defaultdict(list)
    for record in records:
        groups[tuple(record[key] for key in keys)].append(record)
    return dict(groups)


def condition_rows(records: Records) -> list[dict[str, Any]]:
    """One row per task and condition."""
    rows = []
    for (task, condition), members in group(records, "task", "condition").items():
        outcomes = Counter(record["outcome"] for record in members)
        scored = len(members) - outcomes["unscored"]
        right = outcomes["correct"]
        counted = [record for record in members if record["outcome"] != "unscored"]
        hits, clusters = [r["outcome"] == "correct" for r in counted], [r["cluster"] for r in counted]
        low, high = accuracy_interval(hits, clusters) if scored else (None, None)
        costs = [record["cost"] for record in members]
        cost = None if None in costs else sum(costs)
        tokens = [(record["prompt_tokens"] or 0) + (record["completion_tokens"] or 0) for record in members]
        rows.append(
            {
                "task": task,
                "condition": condition,
                "method": members[0]["method"],
                "model": members[0]["model"],
                "rephraser": members[0]["rephraser"],
                "n": len(members),
                "accuracy": right / scored if scored else None,
                "low": low,
                "high": high,
                "coverage": sum(record["extracted"] is not None for record in members) / len(members),
                "outcomes": {name: outcomes[name] for name in OUTCOMES if outcomes[name]},
                "calls": sum(len(record["calls"]) for record in members),
                "tokens": sum(tokens),
                "cost": cost,
                "tokens_per_correct": sum(tokens) / right if right else None,
                "cost_per_correct": cost / right if cost is not None and right else None,
                "seconds_per_correct": sum(record["seconds"] for record in members) / right if right else None,
            }
        )
    return rows


def pair(first: Records, second: Records) -> tuple[list[bool], list[bool], list[str]]:
    """Outcomes of both sides on the questions that both answered, and their clusters (a repeated item is one)."""
    keys = {(r["task"], r["id"], r["sample"]): r for r in first if r["outcome"] != "unscored"}
    before, after, clusters = [], [], []
    for record in second:
        partner = keys.get((record["task"], record["id"], record["sample"]))
        if partner is not None and record["outcome"] != "unscored":
            before.append(partner["outcome"] == "correct")
            after.append(record["outcome"] == "correct")
            clusters.append(record["cluster"])
    return before, after, clusters


def comparison(name: str, first: Records, second: Records) -> dict[str, Any] | None:
    """One paired comparison as a row, None where nothing can be paired."""
    before, after, clusters = pair(first, second)
    if not before:
        return None
    found = compare(before, after, clusters)
    keys = ("n", "lost", "gained", "difference", "low", "high", "p", "clusters")
    return {"comparison": name, **{key: getattr(found, key) for key in keys}}


def against_plain(records: Records) -> list[dict[str, Any]]:
    """Each condition against the plain one of the same task and responder."""
    rows = []
    for (task, model), members in group(records, "task", "model").items():
        by_condition = group(members, "condition", "method")
        plain = next((rows for (_, method), rows in by_condition.items() if method == "plain"), None)
        if plain is None:
            continue
        for (condition, method), own in by_condition.items():
            if method != "plain":
                row = comparison(condition, plain, own)
                rows += [{"task": task, "model": model, **row}] if row else []
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def best_rows(records: Records) -> list[dict[str, Any]]:
    """The best of several variants per task and responder: chosen on these very items, therefore corrected."""
    rows = []
    for (task, model), members in group(records, "task", "model").items():
        by_condition = group(members, "condition", "method")
        plain = next((rows for (_, method), rows in by_condition.items() if method == "plain"), None)
        others = {name: rows for (name, method), rows in by_condition.items() if method != "plain"}
        if plain is None or len(others) < 2:
            continue
        pairs = {name: pair(plain, rows) for name, rows in others.items()}
        if len({len(before) for before, _, _ in pairs.values()}) != 1:
            continue  # a stopped run: not the same items
        before, _, clusters = next(iter(pairs.values()))
        if len(set(clusters)) < 2:
            continue
        found = best_of(np.array([after for _, after, _ in pairs.values()]), np.array(before), clusters)
        rows.append(
            {
                "task": task,
                "model": model,
                "best": list(pairs)[found.best],
                "label": f"best of {found.variants}, chosen on the same items",
                "gain": found.naive,
                "corrected_gain": found.corrected,
                "p": found.p,
            }
        )
    return rows


def drift_rows(records: Records) -> list[dict[str, Any]]:
    """Share of rephrasings per task and rephraser that echo, leak, lose something, or change nothing."""
    rows = []
    for (task, rephraser), members in group(records, "task", "rephraser").items():
        seen = {(record["id"], record["sample"]): record["drift"] for record in members if record["drift"]}
        if seen:
            flags = list(seen.values())
            rates = {name: sum(flag[name] for flag in flags) / len(flags) for name in flags[0]}
            rows.append({"task": task, "rephraser": rephraser, "n": len(flags), **rates})
    return rows


def transfer_matrix(records: Records, method: str = "two-step") -> dict[str, dict[str, float]]:
    """accuracy[rephraser][responder] of a method that rephrases, over all tasks."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for (rephraser, model), members in group(
        [r for r in records if r["method"] == method and r["outcome"] != "unscored"], "rephraser", "model"
    ).items():
        table[rephraser][model] = sum(record["outcome"] == "correct" for record in members) / len(members)
    return dict(table)
