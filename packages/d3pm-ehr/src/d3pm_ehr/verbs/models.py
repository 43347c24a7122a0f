"""Verbs on generators: train, guide, sample, sweep, baseline."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from shared_core.device import check_seed
from shared_core.errors import InputError, RunError
from shared_core.run_folder import RunFolder, run_path
from torch import Tensor

from d3pm_ehr.baselines import BaselineName, make_baseline
from d3pm_ehr.checkpoint import load_state, save_state
from d3pm_ehr.cohort import Cohort, empirical_laws
from d3pm_ehr.condition import Condition
from d3pm_ehr.config import GeneratorConfig, Guidance
from d3pm_ehr.figures import curves_figure, guidance_figure
from d3pm_ehr.formats.aligned import align
from d3pm_ehr.formats.storage import load_cohort
from d3pm_ehr.formats.writers import OutFormat, check_destination, write_records
from d3pm_ehr.generator import EHRD3PM
from d3pm_ehr.guidance_table import DEFINITIONS, guidance_report, strengths
from d3pm_ehr.training import TrainingState
from d3pm_ehr.verbs.shown import print_json, print_table

log = logging.getLogger(__name__)


def train(data: str, out: str | None, config: GeneratorConfig, device: str) -> None:
    """Train on the train split, judged on the tuning split; the same command goes on where it stopped."""
    check_seed(config.seed)
    cohort = load_cohort(data)
    training, tuning = _split(cohort)
    model = EHRD3PM(config, device)
    settings = {"verb": "train", "data": data, "records": len(training), "codes": len(cohort.vocabulary.codes),
                "device": model.device.type, "config": config.to_json()}  # fmt: skip
    if os.environ.get("RANK", "0") != "0":  # another process of `accelerate launch`: it trains along and writes nothing
        model.build(cohort.vocabulary, empirical_laws(training))
        path = run_path(out, package="d3pm-ehr", settings=settings)
        model.fit(training, tuning, state=load_state(path, model))
        return
    with RunFolder(out, package="d3pm-ehr", settings=settings) as folder:
        model.build(cohort.vocabulary, empirical_laws(training))
        state = load_state(folder.path, model) if folder.resumed else TrainingState()
        if state.step:
            log.info("at step %d", state.step)
        folder.metrics.rewind(state.step)

        def after(now: TrainingState, metrics: dict[str, Any]) -> None:
            folder.metrics.write(now.step, **metrics)  # first: a resumed run drops what is beyond its checkpoint
            save_state(folder.path, model, now)
            log.info("step %d: %s", now.step, ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))

        model.fit(training, tuning, state=state, after=after)
        model.save(folder.path)
        rows = folder.metrics.read()
        judge = config.training.judge
        _warn_of_memory([row for row in rows if "held_out_ce" in row], judge, len(training))
        folder.write_json("result.json", {"steps": model.state.step, "judge": judge, "best": model.state.best_loss,
                                          "metrics": rows[-1] if rows else {}})  # fmt: skip
        curves = {
            k: ([r["step"] for r in rows if k in r], [r[k] for r in rows if k in r])
            for k in ("loss", "held_out_ce", "held_out_bound")
        }
        folder.save_figure(
            "training", curves_figure("step", "nats a record", {k: v for k, v in curves.items() if v[0]})
        )
    judged = (
        f"held-out {judge} {model.state.best_loss:.3f} nats a record" if tuning else "no tuning records to judge by"
    )
    print(f"{folder.path}: {model.state.step} steps, {judged}")


def _warn_of_memory(rows: list[dict[str, Any]], judge: str, records: int) -> None:
    """Say when the weights that are kept may know records by heart, or when nothing was learnt at all."""
    if len(rows) < 2:
        return
    best = min(rows, key=lambda row: row[f"held_out_{judge}"])
    lowest = min(rows, key=lambda row: row["held_out_ce"])
    if best is rows[0]:
        log.warning("the held-out %s only rose: %d records are too few for these settings", judge, records)
    elif best["held_out_ce"] > 1.02 * lowest["held_out_ce"]:
        log.warning(
            "the held-out cross-entropy was lowest at step %d and %.0f %% higher at step %d, whose weights are kept: "
            "records may have been learnt by heart; --training.judge ce keeps the earlier ones",
            lowest["step"], 100 * (best["held_out_ce"] / lowest["held_out_ce"] - 1), best["step"],
        )  # fmt: skip


def _split(cohort: Cohort) -> tuple[Cohort, Cohort | None]:
    if cohort.split is None:
        return cohort, None
    training, tuning = cohort.part("train"), cohort.part("tuning")
    if not len(training):
        raise InputError("the cohort has no training records")
    return training, tuning if len(tuning) else None


def guide(model: str, data: str, condition: str, steps: int, seed: int, device: str, as_json: bool) -> None:
    """Train the classifier of a condition and keep it with the model."""
    check_seed(seed)
    generator = EHRD3PM.from_pretrained(model, device)
    training, _ = _split(align(load_cohort(data), generator.vocabulary))
    generator.fit_classifier(condition, training, steps=steps, seed=seed)
    generator.save(model)
    if as_json:
        print_json({"model": model, "condition": condition, "steps": steps, "classifiers": list(generator.classifiers)})
        return
    print(
        f"{model}: classifier for {condition!r} trained; sample with --condition {condition!r} "
        "--guidance.method classifier"
    )


def sample(
    model: str,
    n: int,
    out: str,
    format: OutFormat,
    options: dict[str, Any],
    drop_empty: bool,
    device: str,
    as_json: bool,
) -> None:
    """Draw records and write them as they come."""
    check_seed(options["seed"])
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    check_destination(Path(out), format)
    generator = EHRD3PM.from_pretrained(model, device)
    codes = torch.tensor([source < len(generator.vocabulary.codes) for source in generator.vocabulary.order])
    empty = [0]

    def counted() -> Iterator[Tensor]:
        left = n
        for rows in generator.stream(n * 20 if drop_empty else n, **options):
            bare = (rows[:, codes] == 1).sum(1) == 0
            kept = rows[~bare][:left] if drop_empty else rows
            empty[0] += int(bare.sum())
            left -= len(kept)
            if len(kept):
                yield kept
            if not left:
                return
        if drop_empty:
            raise RunError(f"{left} of {n} records are missing after {20 * n} draws: nearly all draws have no code")

    written = write_records(generator.vocabulary, counted(), out, format)
    if as_json:
        key = "left_out_without_a_code" if drop_empty else "without_a_code"
        print_json({"out": out, "records": written, key: empty[0]})
        return
    what = "left out" if drop_empty else "among them"
    print(f"{out}: {written} records ({empty[0]} without a code {what})")


def read_given(given: Sequence[str]) -> dict[str, int | str]:
    """`250=1`, `sex=female` to a mapping.

    Raises:
        InputError: for an item without `=`.
    """
    fixed: dict[str, int | str] = {}
    for item in given:
        name, equals, level = item.partition("=")
        if not equals or not name or not level:
            raise InputError(f"--given: expected CODE=0, CODE=1 or COLUMN=LEVEL, got {item!r}")
        value: int | str = int(level) if level in ("0", "1") else level
        if fixed.setdefault(name, value) != value:
            raise InputError(f"--given contradicts itself about {name}")
    return fixed


def sweep(
    model: str,
    data: str,
    condition: str,
    guidance: Guidance,
    values: list[float],
    n: int,
    out: str | None,
    seed: int,
    device: str,
) -> None:
    """Guidance strengths side by side: share, effect size, fidelity of the other codes, diversity."""
    check_seed(seed)
    generator = EHRD3PM.from_pretrained(model, device)
    cohort = align(load_cohort(data), generator.vocabulary)
    real = cohort.part("held_out") if cohort.split is not None else cohort
    Condition.parse(condition, generator.vocabulary)
    settings = {"verb": "sweep", "model": model, "data": data, "condition": condition, "guidance": asdict(guidance),
                "strengths": values, "n": n, "seed": seed}  # fmt: skip
    with RunFolder(out, package="d3pm-ehr", settings=settings) as folder:
        rows = guidance_report(generator, real, condition, strengths(guidance, values), n, seed)
        figure = folder.save_figure("guidance", guidance_figure(rows))
        folder.write_json("result.json", {"rows": rows, "definitions": DEFINITIONS, "figures": [figure]})
    from shared_core.claims import format_value

    keys = [
        "share",
        "log_odds_ratio",
        "cohen_h",
        "others_r2",
        "others_spearman",
        "codes_per_record",
        "diversity",
        "distinct",
    ]
    print_table(
        ["guidance", *(k.replace("_", " ") for k in keys)],
        [[r["name"], *(format_value(r[k]) for k in keys)] for r in rows],
    )


def baseline(
    data: str, name: BaselineName, n: int, out: str, format: OutFormat, steps: int, seed: int, as_json: bool
) -> None:
    """Fit a baseline on the train split and write its records."""
    check_seed(seed)
    if n < 1 or steps < 1:
        raise InputError(f"n and steps must be at least 1, got {n} and {steps}")
    check_destination(Path(out), format)
    training, _ = _split(load_cohort(data))
    made = make_baseline(name, steps=steps, seed=seed).fit(training).sample(n, seed)
    written = write_records(made.vocabulary, made.tokens().split(4096), out, format)
    if as_json:
        print_json({"out": out, "records": written, "baseline": name})
        return
    print(f"{out}: {written} records of {name}")
