"""What a guidance strength buys and costs: share, effect size, fidelity of the other codes, diversity."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.condition import Condition
from d3pm_ehr.config import Guidance
from d3pm_ehr.fidelity import prevalence, r2
from d3pm_ehr.generator import EHRD3PM
from d3pm_ehr.vocabulary import Vocabulary

DEFINITIONS = {
    "share": "share of records that fulfil the condition",
    "log_odds_ratio": "log odds of the share, minus those of the unguided share (1/2 added to each count)",
    "cohen_h": "2 asin sqrt(share) - 2 asin sqrt(unguided share)",
    "others_r2": "R2 of the other codes' prevalence among records that fulfil it, against real ones that do",
    "others_spearman": "rank correlation of the same",
    "codes_per_record": "codes in a record that fulfils it",
    "diversity": "mean Hamming distance between two records",
    "distinct": "share of distinct records",
}


def describe(
    synthetic: Cohort, condition: Condition, real: Cohort, base_share: float, name: str = ""
) -> dict[str, Any]:
    """One row of the report.

    Args:
        synthetic: records drawn with some guidance.
        condition: the wanted one.
        real: real records (those that fulfil the condition are the reference of the other codes).
        base_share: share among unguided records.
        name: of the row.
    """
    from scipy.stats import spearmanr

    holds = condition.holds(synthetic.tokens()).numpy()
    wanted = condition.holds(real.tokens()).numpy()
    n, k = len(holds), int(holds.sum())
    others = _other_codes(synthetic.vocabulary, condition)
    row: dict[str, Any] = {"name": name, "records": n, "share": k / n} | effect_size(k, n, base_share)
    enough = k >= 20 and int(wanted.sum()) >= 20
    p, q = (
        prevalence(real.take(np.flatnonzero(wanted)))[others],
        prevalence(synthetic.take(np.flatnonzero(holds)))[others],
    )
    row["others_r2"] = r2(p, q) if enough else None
    row["others_spearman"] = float(spearmanr(p, q)[0]) if enough and p.std() > 0 and q.std() > 0 else None
    row["codes_per_record"] = float(synthetic.lengths()[holds].mean()) if k else None
    all_p = prevalence(synthetic)
    row["diversity"] = float(2 * (all_p * (1 - all_p)).sum() * n / max(1, n - 1))
    row["distinct"] = len(np.unique(np.packbits(synthetic.tokens().numpy() > 0, axis=1), axis=0)) / n
    return row


def effect_size(count: int, records: int, base: float) -> dict[str, float]:
    """Log odds ratio and Cohen's h of a share against a base share."""
    odds = (count + 0.5) / (records - count + 0.5)
    share = min(max(base, 0.5 / (records + 1)), 1 - 0.5 / (records + 1))
    h = 2 * math.asin(math.sqrt(count / records)) - 2 * math.asin(math.sqrt(base))
    return {"log_odds_ratio": math.log(odds) - math.log(share / (1 - share)), "cohen_h": h}


def _other_codes(vocabulary: Vocabulary, condition: Condition) -> np.ndarray:
    own = {vocabulary.order[token] for token in condition.tokens}
    return np.array([index for index in range(len(vocabulary.codes)) if index not in own])


def guidance_report(
    model: EHRD3PM,
    real: Cohort,
    condition: str,
    settings: Mapping[str, Guidance],
    n: int = 1000,
    seed: int = 0,
    num_steps: int | None = None,
) -> list[dict[str, Any]]:
    """A row for real records, for unguided ones, and for each setting.

    Args:
        model: trained.
        real: held-out records.
        condition: see `condition`.
        settings: guidance by name.
        n: records drawn with each.
        seed: of the draws.
        num_steps: reverse steps.
    """
    parsed = Condition.parse(condition, model.vocabulary)
    plain = model.sample(n, seed=seed, num_steps=num_steps)
    base = float(parsed.holds(plain.tokens()).float().mean())
    rows = [describe(real, parsed, real, base, "real"), describe(plain, parsed, real, base, "unguided")]
    for name, guidance in settings.items():
        made = model.sample(n, seed=seed, condition=parsed, guidance=guidance, num_steps=num_steps)
        rows.append(describe(made, parsed, real, base, name))
    return rows


def strengths(guidance: Guidance, values: list[float]) -> dict[str, Guidance]:
    """The same guidance at several lambda."""
    return {f"lambda {value:g}": replace(guidance, strength=value) for value in values}
