"""Claims B-E, measured with trained generators on either source of records."""

from collections.abc import Callable

import numpy as np
from shared_core.claims import Context, Measurement

from d3pm_ehr import figures
from d3pm_ehr.cohort import Cohort
from d3pm_ehr.fidelity import fidelity
from d3pm_ehr.generator import EHRD3PM
from d3pm_ehr.privacy import attribute_inference, membership
from d3pm_ehr.reproduce.shared import (
    OURS,
    REAL,
    RIVALS,
    Source,
    config_of,
    data_of,
    mean_and_ends,
    means,
    paired_gain,
    records_of,
    register,
    seeds,
    undecided,
)
from d3pm_ehr.utility import disease_tasks, scores

TRIED = (
    "Settings of D3PM from 6 configurations (kernel, learning rate, steps, evidence) and learning rate of the "
    "Gaussian from 2, on seed 100 of the embedded law, which is not reported; all have the same width and number of "
    "steps."
)
SMALL = 1000


def _by_generator(
    context: Context, source: Source, score: Callable[[int, str, Cohort], float]
) -> dict[str, list[float]]:
    """A score of every generator's records, seed by seed."""
    found: dict[str, list[float]] = {}
    for seed in seeds(context):
        for name, cohort in records_of(context, source, seed).items():
            found.setdefault(name, []).append(score(seed, name, cohort))
    return found


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
    gains = [
        (key, paired_gain(tables[key][rival], tables[key][OURS])) for key in ("cmd_floor", "mcad") for rival in RIVALS
    ]
    gains += [("bigram_r2", paired_gain(tables["bigram_r2"][OURS], tables["bigram_r2"][rival])) for rival in RIVALS]
    gains += [(key, paired_gain(tables[key][OURS], tables[key][rival]))
              for key in ("prevalence_r2", "prevalence_spearman") for rival in ("Gaussian", "MedGAN")]  # fmt: skip
    failed = sorted({key for key, gain in gains if not (gain > 0).all()})
    data = data_of(context, source, 0)
    records = records_of(context, source, 0)
    names = (
        context.save_figure(f"fidelity-prevalence-{source}", figures.prevalence_figure(data.reference, records, REAL)),
        context.save_figure(f"fidelity-lengths-{source}", figures.length_figure(data.reference, records)),
    )
    measured = {f"CMD {name}": value for name, value in means(tables["cmd_floor"]).items()}
    ends = (min(tables["cmd_floor"][OURS]), max(tables["cmd_floor"][OURS]))
    if context.scale == "smoke":
        return undecided(context, measured, ends, names)
    text = "; ".join(
        f"{key}: " + ", ".join(f"{n} {v:.3f}" for n, v in means(table).items()) for key, table in tables.items()
    )
    short = f"Not better in every seed: {', '.join(failed)}. " if failed else ""
    return Measurement(measured, not failed, ends, f"Means of 3 seeds. {short}{text}. {TRIED}", names)


register(
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
    measured = {f"AUROC {name}": value for name, value in means(scored["auroc"]).items()}
    ends = (min(scored["auroc"][OURS]), max(scored["auroc"][OURS]))
    bars = {key.upper(): {n: mean_and_ends(v) for n, v in table.items()} for key, table in scored.items()}
    figure = context.save_figure(f"utility-{source}", figures.bars_figure(bars, "mean over diseases, on real records"))
    if context.scale == "smoke":
        return undecided(context, measured, ends, (figure,))
    holds = all(bool((gain > 0).all()) for gain in gains.values())
    text = ", ".join(f"{n} {v:.3f}" for n, v in means(scored["aupr"]).items())
    note = f"Means of 3 seeds over {len(disease_tasks(data.train.vocabulary))} diseases; AUPR: {text}. {TRIED}"
    return Measurement(measured, holds, ends, note, (figure,))


register(
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
    measured = {f"membership {name}": value for name, value in means(auc).items()}
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
    text = ", ".join(f"{n} {v:.3f}" for n, v in means(attribute).items())
    note = f"Means of 3 seeds, {rows} members and as many others; attribute F1: {text}. {TRIED}"
    return Measurement(measured, holds, ends, note, (name,))


register(
    "privacy", measure_privacy,
    statement="its records tell no more about who was trained on, or about their hidden codes, than the baselines' do.",
    where="Abstract (claim D)",
    quantity="AUROC of the nearest-record membership attack (0.5 is nothing); and F1 of attribute inference",
    expected="membership <= Gaussian + 0.01 and <= 0.53; attribute F1 <= held-out real records + 0.01",
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
    measured = {f"gain {name}": value for name, value in means(gains).items()}
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
    config = replace(
        config, training=replace(config.training, steps=steps, checkpoint_every=max(1, steps // 6), patience=2)
    )
    cut = len(few) * 4 // 5
    model = EHRD3PM(config, str(context.device)).fit(few.take(np.arange(cut)), few.take(np.arange(cut, len(few))))
    return model.sample(len(data_of(context, source, seed).reference), seed=seed)


register(
    "augmentation", measure_augmentation,
    statement="synthetic records added to few real ones make better classifiers.",
    where="Abstract (claim E)",
    quantity="gain in mean AUROC over the chronic diseases when synthetic records join 1,000 real ones",
    expected="above 0 in every seed, and above that of independent codes",
)  # fmt: skip
