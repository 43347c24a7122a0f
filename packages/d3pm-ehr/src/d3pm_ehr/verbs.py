"""What the commands do, between the files and the method."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_core.device import check_seed
from shared_core.errors import InputError
from shared_core.files import write_json
from shared_core.run_folder import RunFolder
from torch import Tensor

from d3pm_ehr.baselines import BaselineName, make_baseline
from d3pm_ehr.checkpoint import load_state, save_state
from d3pm_ehr.cohort import Cohort
from d3pm_ehr.condition import Condition
from d3pm_ehr.config import GeneratorConfig, Guidance
from d3pm_ehr.embedded import CODES, embedded_cohort
from d3pm_ehr.evaluation import Section, evaluate
from d3pm_ehr.figures import curves_figure, guidance_figure
from d3pm_ehr.formats import readers
from d3pm_ehr.formats.aligned import read_aligned
from d3pm_ehr.formats.assemble import Rules
from d3pm_ehr.formats.nhds import read_nhds
from d3pm_ehr.formats.storage import check_out, load_cohort, save_cohort
from d3pm_ehr.formats.writers import OutFormat, check_destination, write_records
from d3pm_ehr.generator import EHRD3PM, empirical_laws
from d3pm_ehr.guidance_table import DEFINITIONS, guidance_report, strengths
from d3pm_ehr.report import draw, fidelity_table, privacy_table, utility_table, write_report
from d3pm_ehr.training import TrainingState
from d3pm_ehr.utility import custom_task, disease_tasks

log = logging.getLogger(__name__)


def import_table(source: str, out: str | None, format: str, rules: Rules, options: dict[str, Any]) -> None:
    """Read a source, split it by patient, write the cohort, print what was dropped."""
    check_seed(options["seed"])
    path = check_out(out or f"data/{Path(source).name.split('.')[0]}")
    cohort, groups = _read(source, format, rules, options)
    if cohort.split is None:
        cohort = cohort.with_split(options["seed"], (options["tuning"], options["held_out"]), groups)
    save_cohort(cohort, path)
    _print_counts(path, cohort)


def _read(source: str, format: str, rules: Rules, options: dict[str, Any]) -> tuple[Cohort, Any]:
    if source == "embedded" and format in ("auto", "embedded"):
        return embedded_cohort(options["rows"], options["seed"], rules.max_codes or CODES), None
    path = Path(source)
    chosen = readers.detect(path) if format == "auto" else format
    log.info("%s: format %s", path, chosen)
    known: dict[str, Callable[[], tuple[Cohort, Any]]] = {
        "mimic3": lambda: readers.read_mimic3(path, rules, options["record"]),
        "mimic4": lambda: readers.read_mimic4(path, rules, options["record"], options["icd"]),
        "omop": lambda: readers.read_omop(path, rules, options["record"]),
        "meds": lambda: readers.read_meds(path, rules, options["prefix"]),
        "long": lambda: readers.read_long(path, rules, options["record_column"], options["code_column"]),
        "wide": lambda: readers.read_wide(path, rules, options["id_column"], options["categorical"]),
        "nhds": lambda: read_nhds(path, rules),
    }
    if chosen not in known:
        raise InputError(f"{source} cannot be imported as {chosen!r}; --format must be one of {', '.join(known)}")
    return known[chosen]()


def _print_counts(path: Path, cohort: Cohort) -> None:
    from d3pm_ehr.cohort import SPLITS

    rows = [["codes in the vocabulary", str(len(cohort.vocabulary.codes))]]
    rows += [["columns", ", ".join(f"{c.name} ({len(c.levels)})" for c in cohort.vocabulary.columns) or "none"]]
    rows += [["codes per record", f"{cohort.lengths().mean():.2f}"]]
    if cohort.split is not None:
        rows += [[f"records, {name}", str(int((cohort.split == i).sum()))] for i, name in enumerate(SPLITS)]
    rows += [[f"source: {name}", str(value)] for name, value in cohort.info.items()]
    print_table([str(path), ""], rows)


def describe(path: str) -> None:
    """Print what a cohort or a model is."""
    folder = Path(path)
    if (folder / "model.json").exists():
        model = EHRD3PM.from_pretrained(folder, "cpu")
        rows: list[list[str]] = []
        rows += [[f"{part}.{name}", str(v)] for part, own in model.config.to_json().items() if isinstance(own, dict)
                for name, v in own.items()]  # fmt: skip
        weights = sum(p.numel() for p in model.denoiser.parameters())
        rows += [["codes", str(len(model.vocabulary.codes))], ["weights", f"{weights:,}"],
                 ["classifiers", ", ".join(model.classifiers) or "none"]]  # fmt: skip
        print_table([path, ""], rows)
        return
    cohort = load_cohort(folder)
    _print_counts(folder, cohort)
    frequency = np.bincount(cohort.codes.indices, minlength=len(cohort.vocabulary.codes))
    order = np.argsort(-frequency, kind="stable")[:10]
    print_table(["most common codes", "records"], [[cohort.vocabulary.codes[i], str(int(frequency[i]))] for i in order])


def train(data: str, out: str | None, config: GeneratorConfig, device: str) -> None:
    """Train on the train split, judged on the tuning split; the same command goes on where it stopped."""
    check_seed(config.seed)
    cohort = load_cohort(data)
    training, tuning = _split(cohort)
    model = EHRD3PM(config, device)
    folder_path = Path(out or f"runs/d3pm-ehr-train-{Path(data).name}")
    settings = {"verb": "train", "data": data, "records": len(training), "codes": len(cohort.vocabulary.codes),
                "device": model.device.type, "config": config.to_json()}  # fmt: skip
    if os.environ.get("RANK", "0") != "0":  # another process of `accelerate launch`: it trains along and writes nothing
        model.build(cohort.vocabulary, empirical_laws(training))
        model.fit(training, tuning, state=load_state(folder_path, model))
        return
    with RunFolder(folder_path, package="d3pm-ehr", settings=settings) as folder:
        model.build(cohort.vocabulary, empirical_laws(training))
        state = load_state(folder.path, model) if folder.resumed else TrainingState()
        if state.step:
            log.info("going on after step %d", state.step)
        folder.metrics.rewind(state.step)

        def after(now: TrainingState, metrics: dict[str, Any]) -> None:
            save_state(folder.path, model, now)
            folder.metrics.write(now.step, **metrics)
            log.info("step %d: %s", now.step, ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))

        model.fit(training, tuning, state=state, after=after)
        model.save(folder.path)
        rows = folder.metrics.read()
        judged = "held_out_ce" if config.training.loss == "ce" else "held_out_bound"
        losses = [row[judged] for row in rows if judged in row]
        if len(losses) > 1 and min(losses) == losses[0]:
            log.warning("the held-out loss only rose: %d records are too few for these settings", len(training))
        folder.write_json("result.json", {"steps": model.state.step, "best_held_out_bound": model.state.best_bound,
                                          "metrics": rows[-1] if rows else {}})  # fmt: skip
        curves = {
            k: ([r["step"] for r in rows if k in r], [r[k] for r in rows if k in r])
            for k in ("loss", "held_out_ce", "held_out_bound")
        }
        folder.save_figure(
            "training", curves_figure("step", "nats a record", {k: v for k, v in curves.items() if v[0]})
        )
    print(f"{folder_path}: {model.state.step} steps, held-out bound {model.state.best_bound:.3f} nats a record")


def _split(cohort: Cohort) -> tuple[Cohort, Cohort | None]:
    if cohort.split is None:
        return cohort, None
    training, tuning = cohort.part("train"), cohort.part("tuning")
    if not len(training):
        raise InputError("the cohort has no training records")
    return training, tuning if len(tuning) else None


def guide(model: str, data: str, condition: str, steps: int, seed: int, device: str) -> None:
    """Train the classifier of a condition and keep it with the model."""
    check_seed(seed)
    generator = EHRD3PM.from_pretrained(model, device)
    training, _ = _split(readers.align(load_cohort(data), generator.vocabulary))
    generator.fit_classifier(condition, training, steps=steps, seed=seed)
    generator.save(model)
    print(
        f"{model}: classifier for {condition!r} trained; sample with --condition {condition!r} "
        "--guidance.method classifier"
    )


def sample(
    model: str, n: int, out: str, format: OutFormat, options: dict[str, Any], drop_empty: bool, device: str
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

    written = write_records(generator.vocabulary, counted(), out, format)
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
    out: str,
    seed: int,
    device: str,
) -> None:
    """Guidance strengths side by side: share, effect size, fidelity of the other codes, diversity."""
    check_seed(seed)
    generator = EHRD3PM.from_pretrained(model, device)
    cohort = readers.align(load_cohort(data), generator.vocabulary)
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


def baseline(data: str, name: BaselineName, n: int, out: str, format: OutFormat, steps: int, seed: int) -> None:
    """Fit a baseline on the train split and write its records."""
    check_seed(seed)
    if n < 1 or steps < 1:
        raise InputError(f"n and steps must be at least 1, got {n} and {steps}")
    check_destination(Path(out), format)
    training, _ = _split(load_cohort(data))
    made = make_baseline(name, steps=steps, seed=seed).fit(training).sample(n, seed)
    written = write_records(made.vocabulary, made.tokens().split(4096), out, format)
    print(f"{out}: {written} records of {name}")


def evaluate_files(
    data: str,
    synthetic: list[str],
    out: str,
    sections: list[Section],
    align: bool,
    labels: list[str],
    options: dict[str, Any],
) -> None:
    """Judge files of synthetic records against a cohort, and write the report."""
    check_seed(options["seed"])
    cohort = load_cohort(data)
    train_part, held_out = cohort.part("train"), cohort.part("held_out")
    generators = {}
    for item in synthetic:
        name, equals, path = item.partition("=")
        name, path = (name, path) if equals else (Path(item).stem, item)
        if name in generators:
            raise InputError(f"--synthetic names {name!r} twice; write NAME=PATH")
        generators[name] = read_aligned(path, cohort.vocabulary, "drop" if align else "error")
    if not generators:
        raise InputError("synthetic: no records given, so there is nothing to evaluate")
    tasks = disease_tasks(cohort.vocabulary)
    for item in labels:
        name, _, codes = item.partition("=")
        tasks.append(custom_task(name, (codes or name).split("|"), cohort.vocabulary))
    settings = {"verb": "evaluate", "data": data, "synthetic": synthetic, "sections": sections, "align": align,
                "labels": labels, **options}  # fmt: skip
    with RunFolder(out, package="d3pm-ehr", settings=settings) as folder:
        result = evaluate(train_part, held_out, generators, sections=sections, tasks=tasks, **options)
        drawn = draw(train_part, held_out, generators, result, options["seed"])
        write_report(folder.path, result, drawn, f"Synthetic records beside {Path(data).name}")
        write_json(folder.path / "result.json", {"report": "report.html", "evaluation": "evaluation.json"})
    for header, rows in (fidelity_table(result), utility_table(result), privacy_table(result)):
        if rows:
            print_table(header, rows)
    print(f"{out}/report.html")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(header):
        table.add_column(column, overflow="fold", justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
