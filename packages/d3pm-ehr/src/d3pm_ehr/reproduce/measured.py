"""Claims A-E, measured with trained generators on either source of records."""

from collections.abc import Callable
from typing import Any

import numpy as np
from shared_core.claims import Context, Measurement

from d3pm_ehr import figures
from d3pm_ehr.cohort import Cohort
from d3pm_ehr.condition import Condition
from d3pm_ehr.config import Guidance
from d3pm_ehr.fidelity import fidelity, prevalence, r2
from d3pm_ehr.generator import EHRD3PM
from d3pm_ehr.guidance_table import describe
from d3pm_ehr.privacy import attribute_inference, membership
from d3pm_ehr.reproduce.shared import (
    OURS,
    REAL,
    RIVALS,
    Source,
    absent,
    claims,
    config_of,
    data_of,
    mean_and_ends,
    model_of,
    paired_gain,
    records_of,
    seeds,
    undecided,
)
from d3pm_ehr.utility import disease_tasks, scores

TRIED = (
    "Settings of D3PM from 6 configurations (kernel, lr, steps, evidence) and lr of the Gaussian from 2, on seed 100 "
    "of the embedded law, which is not reported; all have the same width and number of steps."
)
CONDITIONS = {"asthma": "493", "COPD": "491|496"}
SMALL = 1000


def _on(source: Source) -> str:
    return "the embedded cohort" if source == "embedded" else "the NHDS 2010 survey"


def _register(id: str, measure: Callable[[Context, Source], Measurement], **claim: str) -> None:
    """The same claim on both sources."""
    sources: tuple[Source, Source] = ("embedded", "survey")
    for source in sources:

        def bound(context: Context, source: Source = source) -> Measurement:
            return absent(context, source) or measure(context, source)

        suffix = "" if source == "embedded" else "-survey"
        statement = f"On {_on(source)}: {claim['statement']}"
        claims.add(id + suffix, **(claim | {"statement": statement}))(bound)


def _by_generator(
    context: Context, source: Source, score: Callable[[int, str, Cohort], float]
) -> dict[str, list[float]]:
    """A score of every generator's records, seed by seed."""
    found: dict[str, list[float]] = {}
    for seed in seeds(context):
        for name, cohort in records_of(context, source, seed).items():
            found.setdefault(name, []).append(score(seed, name, cohort))
    return found


def _means(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in found.items()}


def measure_fidelity(context: Context, source: Source) -> Measurement:
    """Claim B."""
    tables: dict[str, dict[str, list[float]]] = {}
    for seed in seeds(context):
        reference = data_of(context, source, seed).reference
        for name, cohort in records_of(context, source, seed).items():
            row = fidelity(reference, cohort, mmd_rows=500)
            for key in (
                "cmd_floor",
                "bigram_r2",
                "mcad",
                "prevalence_r2",
                "prevalence_spearman",
                "mmd2",
                "codes_per_record",
            ):
                tables.setdefault(key, {}).setdefault(name, []).append(row[key])
    lower = all(max(tables[key][OURS]) < min(tables[key][rival]) for key in ("cmd_floor", "mcad") for rival in RIVALS)
    higher = all(min(tables["bigram_r2"][OURS]) > max(tables["bigram_r2"][rival]) for rival in RIVALS)
    prevalent = all(
        min(tables[key][OURS]) > max(tables[key][rival])
        for key in ("prevalence_r2", "prevalence_spearman") for rival in ("Gaussian", "MedGAN")
    )  # fmt: skip
    data = data_of(context, source, 0)
    records = records_of(context, source, 0)
    names = (
        context.save_figure(f"fidelity-prevalence-{source}", figures.prevalence_figure(data.reference, records, REAL)),
        context.save_figure(f"fidelity-lengths-{source}", figures.length_figure(data.reference, records)),
    )
    measured = {f"CMD {name}": value for name, value in _means(tables["cmd_floor"]).items()}
    ends = (min(tables["cmd_floor"][OURS]), max(tables["cmd_floor"][OURS]))
    if context.scale == "smoke":
        return undecided(context, measured, ends, names)
    text = "; ".join(
        f"{key}: " + ", ".join(f"{n} {v:.3f}" for n, v in _means(table).items()) for key, table in tables.items()
    )
    return Measurement(measured, lower and higher and prevalent, ends, f"Means of 3 seeds. {text}. {TRIED}", names)


_register(
    "fidelity", measure_fidelity,
    statement="discrete diffusion is more faithful than Gaussian diffusion, a GAN and independent codes.",
    where="Abstract (claim B)",
    quantity="correlation distance CMD over codes of at least 1 %; with bigram R2, MCAD, prevalence R2 and Spearman",
    expected="in every seed: CMD, MCAD and bigram R2 better than all three; prevalence R2 and Spearman better than "
    "Gaussian and GAN",
)  # fmt: skip


def measure_utility(context: Context, source: Source) -> Measurement:
    """Claim C: mean over the diseases of AUROC and AUPR, trained on each set of records, tested on real ones."""
    scored: dict[str, dict[str, list[float]]] = {"auroc": {}, "aupr": {}}
    for seed in seeds(context):
        data = data_of(context, source, seed)
        records = {"train real": data.train.take(np.arange(min(len(data.train), len(data.reference))))}
        records |= {n: c for n, c in records_of(context, source, seed).items() if n != REAL}
        for name, cohort in records.items():
            rows = [scores([cohort], data.reference, task, seed, False) for task in disease_tasks(cohort.vocabulary)]
            for key in scored:
                scored[key].setdefault(name, []).append(float(np.mean([row[key] for row in rows])))
    gains = {(key, rival): paired_gain(scored[key][OURS], scored[key][rival]) for key in scored for rival in RIVALS}
    measured = {f"AUROC {name}": value for name, value in _means(scored["auroc"]).items()}
    ends = (min(scored["auroc"][OURS]), max(scored["auroc"][OURS]))
    bars = {key.upper(): {n: mean_and_ends(v) for n, v in table.items()} for key, table in scored.items()}
    figure = context.save_figure(f"utility-{source}", figures.bars_figure(bars, "mean over diseases, on real records"))
    if context.scale == "smoke":
        return undecided(context, measured, ends, (figure,))
    holds = all(bool((gain > 0).all()) for gain in gains.values())
    text = ", ".join(f"{n} {v:.3f}" for n, v in _means(scored["aupr"]).items())
    note = f"Means of 3 seeds over {len(disease_tasks(data.train.vocabulary))} diseases; AUPR: {text}. {TRIED}"
    return Measurement(measured, holds, ends, note, (figure,))


_register(
    "utility", measure_utility,
    statement="classifiers trained on its records do better on real ones than those trained on the baselines' records.",
    where="Abstract (claim C)",
    quantity="mean AUROC (and AUPR) of LightGBM over the chronic diseases, trained on synthetic, tested on real",
    expected="AUROC and AUPR above Gaussian, MedGAN and independent in every seed",
)  # fmt: skip


def measure_privacy(context: Context, source: Source) -> Measurement:
    """Claim D."""
    rows = context.at(500, 4000, 20_000)

    def attack(seed: int, name: str, cohort: Cohort) -> float:
        data = data_of(context, source, seed)
        members, others = (side.take(np.arange(min(rows, len(side)))) for side in (data.train, data.reference))
        return float(membership(members, others, cohort)["membership_auc"])  # type: ignore[arg-type] # a number

    def infer(seed: int, name: str, cohort: Cohort) -> float:
        data = data_of(context, source, seed)
        return attribute_inference(data.train.take(np.arange(min(rows, len(data.train)))), cohort)

    auc, attribute = _by_generator(context, source, attack), _by_generator(context, source, infer)
    measured = {f"membership {name}": value for name, value in _means(auc).items()}
    figure = figures.bars_figure(
        {"membership AUC": {n: mean_and_ends(v) for n, v in auc.items()},
         "attribute F1": {n: mean_and_ends(v) for n, v in attribute.items()}}, "risk", note=0.5,
    )  # fmt: skip
    name = context.save_figure(f"privacy-{source}", figure)
    ends = (min(auc[OURS]), max(auc[OURS]))
    if context.scale == "smoke":
        return undecided(context, measured, ends, (name,))
    holds = np.mean(auc[OURS]) <= np.mean(auc["Gaussian"]) + 0.01 and np.mean(auc[OURS]) <= 0.53
    holds = bool(holds and np.mean(attribute[OURS]) <= np.mean(attribute[REAL]) + 0.01)
    text = ", ".join(f"{n} {v:.3f}" for n, v in _means(attribute).items())
    note = f"Means of 3 seeds, {rows} members and as many others; attribute F1: {text}. {TRIED}"
    return Measurement(measured, holds, ends, note, (name,))


_register(
    "privacy", measure_privacy,
    statement="its records tell no more about who was trained on, or about their hidden codes, than the baselines' do.",
    where="Abstract (claim D)",
    quantity="AUROC of the nearest-record membership attack (0.5 is nothing); and F1 of attribute inference",
    expected="membership <= Gaussian + 0.01 and <= 0.53; attribute F1 <= held-out real records + 0.01",
)  # fmt: skip


def measure_guidance(context: Context, source: Source) -> Measurement:
    """Claim A: the paper's update with a trained classifier; the head's own probability and replacement beside it."""
    count = context.at(200, 1024, 10_000)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds(context):
        data, model = data_of(context, source, seed), model_of(context, source, seed)
        for name, text in context.at({"asthma": "493"}, CONDITIONS, CONDITIONS).items():
            for row in _guided_rows(context, model, data.train, data.reference, text, seed, count):
                rows.setdefault(f"{name}, {row['name']}", []).append(row)
    share = {key: float(np.mean([row["share"] for row in own])) for key, own in rows.items()}
    ratios = [a["share"] / max(b["share"], 1e-9) for name in _names(rows) for a, b in
              zip(rows[f"{name}, classifier"], rows[f"{name}, unguided"], strict=True)]  # fmt: skip
    better = [a["others_r2"] is not None and a["others_r2"] > b["ignoring_r2"] for name in _names(rows) for a, b in
              zip(rows[f"{name}, classifier"], rows[f"{name}, unguided"], strict=True)]  # fmt: skip
    averaged = [{**own[0], "name": key, "share": share[key], "diversity": float(np.mean([r["diversity"] for r in own])),
                 "others_r2": _mean_or_none([r["others_r2"] for r in own])} for key, own in rows.items()]  # fmt: skip
    figure = context.save_figure(f"guidance-{source}", figures.guidance_figure(averaged))
    ends = (min(ratios), max(ratios))
    if context.scale == "smoke":
        return undecided(context, share, ends, (figure,))
    text = "; ".join(
        f"{row['name']}: R2 {_shown(row['others_r2'])}, diversity {row['diversity']:.2f}, "
        f"log odds ratio {row['log_odds_ratio']:.2f}"
        for row in averaged
    )  # fmt: skip
    ignoring = ", ".join(f"{n} {np.mean([r['ignoring_r2'] for r in rows[f'{n}, unguided']]):.3f}" for n in _names(rows))
    note = (f"3 seeds, {count} records each, interval of the ratio guided / unguided share. {text}. R2 of records that "
            f"ignore the condition: {ignoring}. Guidance: eta 1, lambda 0.1, M 5, not tuned here.")  # fmt: skip
    return Measurement(share, min(ratios) >= 3 and all(better), ends, note, (figure,))


def _names(rows: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(key.rpartition(", ")[0] for key in rows))


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _shown(value: float | None) -> str:
    return "too few" if value is None else f"{value:.3f}"


def _guided_rows(
    context: Context, model: EHRD3PM, train: Cohort, reference: Cohort, text: str, seed: int, count: int
) -> list[dict[str, Any]]:
    condition = Condition.parse(text, model.vocabulary)
    model.fit_classifier(condition, train, steps=context.at(20, 300, 2000), seed=seed)
    plain = model.sample(count, seed=seed)
    base = float(condition.holds(plain.tokens()).float().mean())
    unguided = describe(plain, condition, reference, base, "unguided")
    wanted = reference.take(np.flatnonzero(condition.holds(reference.tokens()).numpy()))
    others = np.setdiff1d(np.arange(len(model.vocabulary.codes)), [model.vocabulary.order[t] for t in condition.tokens])
    unguided["ignoring_r2"] = r2(prevalence(wanted)[others], prevalence(plain)[others])
    rows = [unguided]
    for method in ("classifier", "own_head"):
        made = model.sample(count, seed=seed, condition=condition, guidance=Guidance(method=method))
        rows.append(describe(made, condition, reference, base, method.replace("_", " ")))
    return rows


_register(
    "guidance", measure_guidance,
    statement="the same model, guided, gives a wanted condition and keeps the other codes as in real records "
    "with it.",
    where="Abstract (claim A)",
    quantity="share of records with the condition, classifier guidance; and R2 of the other codes' prevalence given it",
    expected="in every seed and condition at least 3 times the unguided share; R2 above that of records that ignore "
    "the condition",
)  # fmt: skip


def measure_augmentation(context: Context, source: Source) -> Measurement:
    """Claim E: 1,000 real records, with synthetic ones of a generator that saw more (and of one that saw the same)."""
    gains: dict[str, list[float]] = {}
    for seed in seeds(context):
        data = data_of(context, source, seed)
        few = data.train.take(np.arange(min(SMALL, len(data.train))))
        records = {n: c for n, c in records_of(context, source, seed).items() if n not in (REAL, "MedGAN")}
        records["D3PM of the same rows"] = _same_rows(context, source, seed, few)
        tasks = disease_tasks(few.vocabulary)
        alone = {task.name: scores([few], data.reference, task, seed, False)["auroc"] for task in tasks}
        for name, cohort in records.items():
            added = [scores([few, cohort], data.reference, task, seed, False)["auroc"] for task in tasks]
            gain = [after - alone[task.name] for after, task in zip(added, tasks, strict=True)]
            gains.setdefault(name, []).append(float(np.mean(gain)))
    measured = {f"gain {name}": value for name, value in _means(gains).items()}
    bars = {"AUROC gain": {n: mean_and_ends(v) for n, v in gains.items()}}
    figure = context.save_figure(f"augmentation-{source}", figures.bars_figure(bars, "mean over diseases", note=0.0))
    ends = (min(gains[OURS]), max(gains[OURS]))
    if context.scale == "smoke":
        return undecided(context, measured, ends, (figure,))
    holds = min(gains[OURS]) > 0 and np.mean(gains[OURS]) > np.mean(gains["independent"])
    note = (f"3 seeds; {SMALL} real records and {len(data.reference)} synthetic ones. The generators saw "
            f"{len(data.train)} records, the last row's the {SMALL} only. {TRIED}")  # fmt: skip
    return Measurement(measured, bool(holds), ends, note, (figure,))


def _same_rows(context: Context, source: Source, seed: int, few: Cohort) -> Cohort:
    """Records of a generator trained on the few real records alone."""
    from dataclasses import replace

    config = config_of(context, seed)
    steps = context.at(30, 300, 2000)
    config = replace(config, training=replace(config.training, steps=steps, every=max(1, steps // 6), patience=2))
    cut = len(few) * 4 // 5
    model = EHRD3PM(config, str(context.device)).fit(few.take(np.arange(cut)), few.take(np.arange(cut, len(few))))
    return model.sample(len(data_of(context, source, seed).reference), seed=seed)


_register(
    "augmentation", measure_augmentation,
    statement="synthetic records added to few real ones make better classifiers.",
    where="Abstract (claim E)",
    quantity="gain in mean AUROC over the chronic diseases when synthetic records join 1,000 real ones",
    expected="above 0 in every seed, and above that of independent codes",
)  # fmt: skip
