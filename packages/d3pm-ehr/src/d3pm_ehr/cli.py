"""The command `d3pm-ehr`: verbs to public functions."""

from collections.abc import Callable
from typing import Any, Literal

from shared_core.cli import run

from d3pm_ehr.config import Diffusion, GeneratorConfig, Guidance, Network, Training

Format = Literal["auto", "mimic3", "mimic4", "omop", "meds", "long", "wide", "nhds", "embedded"]
OutFormat = Literal["auto", "long", "wide", "mimic3", "omop", "meds", "cohort"]


def import_(
    source: str,
    out: str | None = None,
    format: Format = "auto",
    record: Literal["patient", "visit"] = "patient",
    truncate: str | None = None,
    icd: Literal["9", "10", "both"] | None = None,
    min_records: int = 10,
    max_codes: int | None = None,
    empty: Literal["error", "keep", "drop"] = "error",
    invalid: Literal["error", "drop"] = "error",
    prefix: list[str] = ["DIAGNOSIS//"],  # noqa: B006 - read only; the help shows it
    record_column: str = "patient",
    code_column: str = "code",
    id_column: str | None = None,
    categorical: list[str] = [],  # noqa: B006 - read only; the help shows it
    tuning: float = 0.1,
    held_out: float = 0.2,
    n: int = 20000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Read a table of diagnoses into a cohort: records, vocabulary, splits; no identifier is kept.

    Args:
        source: MIMIC DIAGNOSES_ICD or diagnoses_icd, OMOP condition_occurrence, a MEDS folder, a long (patient, code)
            or wide 0/1 csv or parquet, the NHDS public-use file, or `embedded` for the cohort that ships here.
        out: folder of the cohort; data/NAME by default.
        format: of the source; told by its columns by default.
        record: the union of a patient's visits, or each visit (MIMIC, OMOP).
        truncate: icd3 (three characters, four for ICD-9's E codes), none, or a number of characters; icd3 for MIMIC,
            NHDS and a long table with --icd, none for the others.
        icd: which ICD version of MIMIC-IV to keep (both keeps them as different codes), or that of a long table's
            codes.
        min_records: codes of fewer records are left out of the vocabulary.
        max_codes: at most so many codes, the most frequent.
        empty: what to do with records without a code: error, keep or drop.
        invalid: what to do with what is no ICD code: error or drop.
        prefix: MEDS codes to keep begin with one of these.
        record_column: of a long table.
        code_column: of a long table.
        id_column: of a wide table, left out.
        categorical: columns of a wide table that are categories and not codes.
        tuning: share of records (of patients) for early stopping.
        held_out: share of records (of patients) for the evaluation.
        n: records of the embedded cohort.
        seed: of the split, and of the embedded cohort.
        json: print the result as JSON instead of a table.
    """
    from d3pm_ehr.formats.assemble import Rules
    from d3pm_ehr.verbs.records import import_table

    rules = Rules("none", min_records, max_codes, empty, invalid)
    import_table(source, out, format, rules, {
        "truncate": truncate, "record": record,
        "icd": icd, "prefix": prefix, "record_column": record_column, "code_column": code_column,
        "id_column": id_column, "categorical": categorical, "tuning": tuning, "held_out": held_out, "n": n,
        "seed": seed,
    }, json)  # fmt: skip


def info(path: str, json: bool = False) -> None:
    """Say what a cohort or a trained model is.

    Args:
        path: folder made by import or train.
        json: print the result as JSON instead of a table.
    """
    from d3pm_ehr.verbs.records import describe

    describe(path, json)


def train(
    data: str,
    out: str | None = None,
    diffusion: Diffusion = Diffusion(),
    network: Network = Network(),
    training: Training = Training(),
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Train a generator on a cohort; the same command goes on where it was interrupted.

    Args:
        data: cohort made by import; its train and tuning splits are used.
        out: run folder; runs/d3pm-ehr-train by default.
        diffusion: the process.
        network: the denoiser.
        training: the optimisation.
        seed: of weights, batches and noise.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from d3pm_ehr.verbs.models import train as fit

    fit(data, out, GeneratorConfig(diffusion, network, training, seed), device)


def sweep(
    model: str,
    data: str,
    condition: str,
    guidance: Guidance = Guidance(),
    strengths: list[float] = [10.0, 1.0, 0.1, 0.01],  # noqa: B006 - read only; the help shows it
    n: int = 1000,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Set guidance strengths side by side: share, effect size, fidelity of the other codes, diversity.

    Args:
        model: folder made by train.
        data: cohort, whose held-out split is the reference.
        condition: as for sample.
        guidance: all but the strength.
        strengths: values of lambda, comma separated.
        n: records drawn with each.
        out: run folder for result.json and the figure; runs/d3pm-ehr-sweep by default.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from d3pm_ehr.verbs.models import sweep as compare

    compare(model, data, condition, guidance, strengths, n, out, seed, device)


def sample(
    model: str,
    n: int = 1000,
    out: str = "synthetic.csv",
    format: OutFormat = "auto",
    condition: str | None = None,
    guidance: Guidance = Guidance(),
    given: list[str] = [],  # noqa: B006 - read only; the help shows it
    num_steps: int | None = None,
    transition_times: bool = False,
    drop_empty: bool = False,
    batch_size: int = 1024,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Draw synthetic records, also for a wanted condition.

    Args:
        model: folder made by train.
        n: records.
        out: a .csv or .parquet file, or a folder.
        format: long (patient, code), wide, mimic3, omop, meds or cohort; by the name of out by default.
        condition: codes that must be there, e.g. 250 or "250,!585" or "491|492|496" or "sex=female".
        guidance: how the condition steers; method own_head, classifier (see guide), replace or reject.
        given: codes and columns that are fixed, e.g. 250=1,585=0,sex=female.
        num_steps: reverse steps; all of the model's by default.
        transition_times: call the network only where a record changes (kernel absorbing).
        drop_empty: draw again for records without a code.
        batch_size: records at once; changes nothing but the memory.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print the result as JSON instead of a line.
    """
    from d3pm_ehr.verbs.models import read_given
    from d3pm_ehr.verbs.models import sample as draw

    options: dict[str, Any] = {
        "condition": condition, "guidance": guidance, "given": read_given(given), "num_steps": num_steps,
        "transition_times": transition_times, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    draw(model, n, out, format, options, drop_empty, device, json)


def guide(
    model: str,
    data: str,
    condition: str,
    steps: int = 600,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train a classifier of a condition on the model's hidden states, for classifier guidance.

    Args:
        model: folder made by train; the classifier is added to it.
        data: cohort, whose train split is used.
        condition: as for sample.
        steps: of the classifier's training.
        seed: of everything drawn.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print the result as JSON instead of a line.
    """
    from d3pm_ehr.verbs.models import guide as add_classifier

    add_classifier(model, data, condition, steps, seed, device, json)


def baseline(
    data: str,
    name: Literal["bernoulli", "gaussian", "medgan", "ctgan"] = "gaussian",
    n: int = 1000,
    out: str = "baseline.csv",
    format: OutFormat = "auto",
    steps: int = 2000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Fit a baseline on the same cohort and write its records.

    Args:
        data: cohort, whose train split is used.
        name: bernoulli (independent codes), gaussian (EDM diffusion, rounded), medgan, ctgan (an extra).
        n: records.
        out: a .csv or .parquet file, or a folder.
        format: long, wide, mimic3, omop, meds or cohort; by the name of out by default.
        steps: of its training (not bernoulli, ctgan).
        seed: of everything drawn.
        json: print the result as JSON instead of a line.
    """
    from d3pm_ehr.verbs.models import baseline as fit

    fit(data, name, n, out, format, steps, seed, json)


def evaluate(
    data: str,
    synthetic: str,
    out: str | None = None,
    sections: list[Literal["fidelity", "utility", "augmentation", "privacy"]] = [  # noqa: B006 - read only
        "fidelity", "utility", "augmentation", "privacy",
    ],
    align: bool = False,
    label: list[str] = [],  # noqa: B006 - read only; the help shows it
    floor: float = 0.01,
    small: int = 1000,
    known: int = 100,
    known_columns: bool = False,
    n: int = 8000,
    seed: int = 0,
    json: bool = False,
) -> None:  # fmt: skip
    """Judge synthetic records: fidelity, utility, privacy, beside held-out real and independent rows; HTML and json.

    Args:
        data: cohort made by import; its held-out split is the reference.
        synthetic: files or folders of records, as PATH or NAME=PATH, comma separated.
        out: run folder for report.html, evaluation.json and figures; runs/d3pm-ehr-evaluate by default.
        sections: what to measure.
        align: leave codes out that the cohort does not know, instead of refusing them.
        label: more labels for the utility, as NAME=CODE|CODE.
        floor: prevalence from which a code is not rare.
        small: real records in the augmentation.
        known: most common codes that an attacker knows.
        known_columns: the attacker knows the categorical columns too (demographics; alone with --known 0).
        n: records taken of each set, at most.
        seed: of every draw.
        json: print the result as JSON instead of tables.
    """
    from d3pm_ehr.verbs.records import evaluate_files

    options = {
        "seed": seed,
        "floor": floor,
        "small": small,
        "known": known,
        "known_columns": known_columns,
        "n": n,
    }
    evaluate_files(data, synthetic.split(","), out, sections, align, label, options, json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper goes to all codes of the survey.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/d3pm-ehr-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from d3pm_ehr.reproduce import claims as paper_claims

    return paper_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Callable[..., int | None]] = [
        import_, info, train, sample, guide, sweep, baseline, evaluate, reproduce,
    ]  # fmt: skip
    return run("d3pm-ehr", verbs, summary="Guided discrete diffusion for health-record codes.")
