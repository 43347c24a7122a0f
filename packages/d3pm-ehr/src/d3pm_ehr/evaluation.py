"""One evaluation: fidelity, utility, privacy of synthetic records, always beside held-out real and Bernoulli rows."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from shared_core.errors import InputError

from d3pm_ehr import fidelity as fidelity_metrics
from d3pm_ehr import privacy as privacy_metrics
from d3pm_ehr.baselines import Bernoulli
from d3pm_ehr.cohort import Cohort
from d3pm_ehr.fidelity import code_auroc, dimension_wise_prediction, fidelity, prediction_codes
from d3pm_ehr.privacy import privacy
from d3pm_ehr.utility import Task, augmentation, check_no_leak, disease_tasks, scores

log = logging.getLogger(__name__)
Section = Literal["fidelity", "utility", "augmentation", "privacy"]
SECTIONS: tuple[Section, ...] = ("fidelity", "utility", "augmentation", "privacy")
HELD_OUT, INDEPENDENT = "held-out real", "independent Bernoulli"


def evaluate(
    train: Cohort,
    held_out: Cohort,
    synthetic: Mapping[str, Cohort],
    *,
    sections: Sequence[Section] = SECTIONS,
    tasks: Sequence[Task] | None = None,
    seed: int = 0,
    floor: float = 0.01,
    small: int = 1000,
    known: int = 100,
    known_columns: bool = False,
    n: int = 8000,
) -> dict[str, Any]:
    """Judge synthetic records against real ones.

    The held-out records are halved: one half is the reference (and the test of every classifier), the other is the row
    `held-out real`, what a perfect generator would reach at this size.

    Args:
        train: records the generators were trained on.
        held_out: records they have not seen.
        synthetic: records of each generator, by its name.
        sections: what to measure.
        tasks: labels of the utility; the chronic diseases that the vocabulary has by default.
        seed: of every draw.
        floor: prevalence from which a code counts as not rare.
        small: real records in the augmentation.
        known: codes an attacker knows in the attribute inference.
        known_columns: whether the attacker knows the categorical columns too.
        n: records taken of each generator, at most.

    Raises:
        InputError: for too few records, a setting out of range, another vocabulary, or a label left among the codes.
    """
    labels = disease_tasks(train.vocabulary) if tasks is None else list(tasks)
    check_evaluation(
        train, held_out, synthetic, sections=sections, tasks=labels, floor=floor, small=small, known=known, n=n
    )
    order = np.random.default_rng(seed).permutation(len(held_out))
    half = len(order) // 2
    reference, other = held_out.take(np.sort(order[:half])), held_out.take(np.sort(order[half:]))
    count = min(n, max((len(cohort) for cohort in synthetic.values()), default=n))
    generators = {HELD_OUT: other.take(np.arange(min(count, len(other))))}
    generators |= {name: cohort.take(np.arange(min(n, len(cohort)))) for name, cohort in synthetic.items()}
    generators[INDEPENDENT] = Bernoulli().fit(train).sample(count, seed)
    result: dict[str, Any] = {
        "records": {"train": len(train), "reference": len(reference)} | {n: len(c) for n, c in generators.items()},
        "floor": floor, "seed": seed, "definitions": fidelity_metrics.DEFINITIONS | privacy_metrics.DEFINITIONS,
    }  # fmt: skip
    if "fidelity" in sections:
        result["fidelity"] = _fidelity(train, reference, generators, floor, seed)
    if "utility" in sections:
        log.info("utility: %d labels", len(labels))
        result["utility"] = _utility(train, reference, generators, labels, seed, count)
    if "augmentation" in sections:
        result["augmentation"] = _augmentation(train, reference, generators, labels, seed, small)
    if "privacy" in sections:
        log.info("privacy")
        result["privacy"] = _privacy(train, reference, generators, seed, known, known_columns)
    return result


def check_evaluation(
    train: Cohort,
    held_out: Cohort,
    synthetic: Mapping[str, Cohort],
    *,
    sections: Sequence[Section],
    tasks: Sequence[Task],
    floor: float,
    small: int,
    known: int,
    n: int,
) -> None:
    """Refuse what cannot be evaluated, before anything is computed or written (arguments as `evaluate`).

    Raises:
        InputError: as `evaluate`.
    """
    unknown = [section for section in sections if section not in SECTIONS]
    if unknown:
        raise InputError(f"sections must be among {', '.join(SECTIONS)}, got {unknown[0]!r}")
    if min(n, small) < 1 or known < 0 or not 0 <= floor < 1:
        raise InputError(
            f"n and small must be at least 1, known at least 0 and floor in 0..1, got n {n}, small {small}, "
            f"known {known}, floor {floor}"
        )
    if len(held_out) < 4 or len(train) < 2:
        raise InputError(
            f"evaluation needs at least 4 held-out and 2 training records, got {len(held_out)} and {len(train)}"
        )
    for name, cohort in synthetic.items():
        if not len(cohort):
            raise InputError(f"{name} holds no records")
        if cohort.vocabulary.names != train.vocabulary.names:
            raise InputError(f"{name} has another vocabulary than the training records; align it first")
    if {"utility", "augmentation"} & set(sections):
        for task in tasks:
            check_no_leak(task, train)


def _fidelity(
    train: Cohort, reference: Cohort, generators: dict[str, Cohort], floor: float, seed: int
) -> dict[str, Any]:
    log.info("fidelity of %d sets of records", len(generators))
    codes = prediction_codes(reference, floor=floor)
    real = code_auroc(train.take(np.arange(min(len(train), len(generators[HELD_OUT])))), reference, codes)
    return {
        name: fidelity(reference, cohort, floor, seed) | dimension_wise_prediction(real, cohort, reference, codes)
        for name, cohort in generators.items()
    }


def _utility(
    train: Cohort, reference: Cohort, generators: dict[str, Cohort], labels: list[Task], seed: int, count: int
) -> dict[str, Any]:
    """TSTR for every generator, and TRTR: the same with as many training records."""
    trained_on = {"train real": train.take(np.arange(min(count, len(train))))} | generators
    return {
        name: {task.name: scores([cohort], reference, task, seed) for task in labels}
        for name, cohort in trained_on.items()
    }


def _augmentation(
    train: Cohort, reference: Cohort, generators: dict[str, Cohort], labels: list[Task], seed: int, small: int
) -> dict[str, Any]:
    """Few real records, with and without synthetic ones; the generator may have seen more than the classifier."""
    few = train.take(np.arange(min(small, len(train))))
    rows = {name: cohort for name, cohort in generators.items() if name != HELD_OUT}
    return {"real records": len(few), "generator's records": len(train)} | {
        name: augmentation(few, cohort, reference, labels, seed) for name, cohort in rows.items()
    }


def _privacy(
    train: Cohort, reference: Cohort, generators: dict[str, Cohort], seed: int, known: int, known_columns: bool
) -> dict[str, Any]:
    size = max(len(cohort) for cohort in generators.values())
    copied = {
        "training rows themselves": train.take(np.arange(min(len(train), size)))
    }  # the worst that can be published
    return {
        name: privacy(train, reference, cohort, seed, known, known_columns=known_columns)
        for name, cohort in (generators | copied).items()
    }
