"""Verbs on records: import, info, evaluate."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from shared_core.device import check_seed
from shared_core.errors import InputError
from shared_core.files import write_json
from shared_core.run_folder import RunFolder

from d3pm_ehr.cohort import SPLITS, Cohort
from d3pm_ehr.embedded import CODES, embedded_cohort
from d3pm_ehr.evaluation import Section, check_evaluation, evaluate
from d3pm_ehr.formats import readers
from d3pm_ehr.formats.aligned import read_aligned
from d3pm_ehr.formats.assemble import Rules
from d3pm_ehr.formats.nhds import read_nhds
from d3pm_ehr.formats.plain import read_long, read_wide
from d3pm_ehr.formats.storage import check_out, load_cohort, save_cohort
from d3pm_ehr.generator import EHRD3PM
from d3pm_ehr.report import draw, fidelity_table, privacy_table, utility_table, write_report
from d3pm_ehr.utility import custom_task, disease_tasks
from d3pm_ehr.verbs.shown import print_json, print_table

log = logging.getLogger(__name__)


# which formats an option of `import` is for, and its value where it is not given
OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "truncate": (("mimic3", "mimic4", "meds", "long", "nhds"), None),
    "record": (("mimic3", "mimic4", "omop"), "patient"),
    "icd": (("mimic4", "long"), None),
    "prefix": (("meds",), ["DIAGNOSIS//"]),
    "record_column": (("long",), "patient"),
    "code_column": (("long",), "code"),
    "id_column": (("wide",), None),
    "categorical": (("wide",), []),
    "n": (("embedded",), 20_000),
}


def import_table(
    source: str, out: str | None, format: str, rules: Rules, options: dict[str, Any], as_json: bool
) -> None:
    """Read a source, split it by patient, write the cohort, print what was dropped."""
    check_seed(options["seed"])
    path = check_out(out or f"data/{Path(source).name.split('.')[0]}")
    cohort, groups = _read(source, format, rules, options)
    if cohort.split is None:
        cohort = cohort.with_split(options["seed"], (options["tuning"], options["held_out"]), groups)
    save_cohort(cohort, path)
    if as_json:
        print_json({"path": str(path)} | _counts(cohort))
    else:
        _print_counts(path, cohort)


def _read(source: str, format: str, rules: Rules, options: dict[str, Any]) -> tuple[Cohort, Any]:
    path = Path(source)
    if format == "auto":
        chosen = "embedded" if source == "embedded" else readers.detect(path)
    else:
        chosen = format
    log.info("%s: format %s", path, chosen)
    for name, (formats, default) in OPTIONS.items():
        if options[name] != default and chosen not in formats:
            raise InputError(f"--{name.replace('_', '-')} is for format {', '.join(formats)}, not for {chosen}")
    by_version = chosen in ("mimic3", "mimic4", "nhds") or (chosen == "long" and options["icd"])
    rules = replace(rules, truncate=options["truncate"] or ("icd3" if by_version else "none"))
    known: dict[str, Callable[[], tuple[Cohort, Any]]] = {
        "mimic3": lambda: readers.read_mimic3(path, rules, options["record"]),
        "mimic4": lambda: readers.read_mimic4(path, rules, options["record"], options["icd"]),
        "omop": lambda: readers.read_omop(path, rules, options["record"]),
        "meds": lambda: readers.read_meds(path, rules, options["prefix"]),
        "long": lambda: read_long(path, rules, options["record_column"], options["code_column"], options["icd"]),
        "wide": lambda: read_wide(path, rules, options["id_column"], options["categorical"]),
        "nhds": lambda: read_nhds(path, rules),
        "embedded": lambda: (embedded_cohort(options["n"], options["seed"], rules.max_codes or CODES), None),
    }
    return known[chosen]()


def _counts(cohort: Cohort) -> dict[str, Any]:
    """What a cohort holds."""
    split = {} if cohort.split is None else {
        name: int((cohort.split == i).sum()) for i, name in enumerate(SPLITS)
    }  # fmt: skip
    return {
        "codes": len(cohort.vocabulary.codes),
        "columns": {column.name: len(column.levels) for column in cohort.vocabulary.columns},
        "codes_per_record": float(cohort.lengths().mean()),
        "records": split or {"all": len(cohort)},
        "source": cohort.info,
    }


def _print_counts(path: Path, cohort: Cohort) -> None:
    found = _counts(cohort)
    rows = [["codes in the vocabulary", str(found["codes"])]]
    rows += [["columns", ", ".join(f"{name} ({levels})" for name, levels in found["columns"].items()) or "none"]]
    rows += [["codes per record", f"{found['codes_per_record']:.2f}"]]
    rows += [[f"records, {name}", str(count)] for name, count in found["records"].items()]
    rows += [[f"source: {name}", str(value)] for name, value in found["source"].items()]
    print_table([str(path), ""], rows)


def describe(path: str, as_json: bool) -> None:
    """Print what a cohort or a model is."""
    folder = Path(path)
    if (folder / "model.json").exists():
        _describe_model(folder, as_json)
        return
    cohort = load_cohort(folder)
    frequency = np.bincount(cohort.codes.indices, minlength=len(cohort.vocabulary.codes))
    order = np.argsort(-frequency, kind="stable")[:10]
    common = {cohort.vocabulary.codes[i]: int(frequency[i]) for i in order}
    if as_json:
        print_json({"path": path} | _counts(cohort) | {"most_common_codes": common})
        return
    _print_counts(folder, cohort)
    print_table(["most common codes", "records"], [[code, str(count)] for code, count in common.items()])


def _describe_model(folder: Path, as_json: bool) -> None:
    model = EHRD3PM.from_pretrained(folder, "cpu")
    config = model.config.to_json()
    codes, weights = len(model.vocabulary.codes), sum(p.numel() for p in model.denoiser.parameters())
    if as_json:
        print_json({"path": str(folder), "config": config, "codes": codes, "weights": weights,
                    "classifiers": list(model.classifiers)})  # fmt: skip
        return
    rows = [[f"{part}.{name}", str(v)] for part, own in config.items() if isinstance(own, dict)
            for name, v in own.items()]  # fmt: skip
    rows += [
        ["codes", str(codes)],
        ["weights", f"{weights:,}"],
        ["classifiers", ", ".join(model.classifiers) or "none"],
    ]
    print_table([str(folder), ""], rows)


def evaluate_files(
    data: str,
    synthetic: list[str],
    out: str | None,
    sections: list[Section],
    align: bool,
    labels: list[str],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Judge files of synthetic records against a cohort, and write the report."""
    check_seed(options["seed"])
    cohort = load_cohort(data)
    train_part, held_out = cohort.part("train"), cohort.part("held_out")
    generators = {}
    for item in filter(None, synthetic):
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
    checked = {name: options[name] for name in ("floor", "small", "known", "n")}
    check_evaluation(train_part, held_out, generators, sections=sections, tasks=tasks, **checked)
    with RunFolder(out, package="d3pm-ehr", settings=settings) as folder:
        result = evaluate(train_part, held_out, generators, sections=sections, tasks=tasks, **options)
        drawn = draw(train_part, held_out, generators, result, options["seed"])
        write_report(folder.path, result, drawn, f"Synthetic records beside {Path(data).name}")
        report = folder.path / "report.html"
        write_json(folder.path / "result.json", {"report": "report.html", "evaluation": "evaluation.json"})
    if as_json:
        print_json({"report": str(report)} | result)
        return
    for header, rows in (fidelity_table(result), utility_table(result), privacy_table(result)):
        if rows:
            print_table(header, rows)
    print(report)
