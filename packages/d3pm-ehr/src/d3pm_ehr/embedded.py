"""The cohort that ships with the package: figures computed from the NHDS 2010 public-use file, no record of it.

`data/embedded.json` holds, for 256 ICD-9 categories, age band, sex and death, the prevalences within 64 latent classes
(each class stands for hundreds of discharges and is shrunk to the whole). Records are drawn from them at use.
"""

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.latent_classes import LatentClasses
from d3pm_ehr.vocabulary import Column, Vocabulary

CODES, CLASSES = 256, 64
SCALE = 10_000  # figures are stored as ten-thousandths


@cache
def embedded_law() -> LatentClasses:
    """The law of the embedded cohort."""
    value = json.loads((files("d3pm_ehr") / "data" / "embedded.json").read_text(encoding="utf-8"))
    columns = tuple(Column(name, tuple(levels)) for name, levels in value["columns"].items())
    vocabulary = Vocabulary(tuple(value["codes"]), columns, "icd3", notes={"source": value["source"]})
    weights = np.array(value["weights"], float)
    laws = [np.array(value["levels"][column.name], float) + 0.5 for column in columns]
    return LatentClasses(
        vocabulary, weights / weights.sum(), (np.array(value["presence"], float) + 0.02) / (SCALE + 1),
        tuple(law / law.sum(1, keepdims=True) for law in laws),
    )  # fmt: skip


def embedded_cohort(n: int = 20_000, seed: int = 0, codes: int = CODES, columns: bool = True) -> Cohort:
    """Draw a cohort that looks like the survey's discharges.

    Args:
        n: records.
        seed: of every draw.
        codes: the most frequent ones to keep.
        columns: with age band, sex and death.

    Raises:
        InputError: for n or codes below 1.
    """
    if n < 1 or codes < 1:
        raise InputError(f"n and codes must be at least 1, got {n} and {codes}")
    cohort = embedded_law().sample(n, seed)
    if not columns:
        cohort = replace(cohort, vocabulary=replace(cohort.vocabulary, columns=()), columns=np.zeros((n, 0), np.uint8))
    if codes >= len(cohort.vocabulary.codes):
        return cohort
    law = embedded_law()
    kept = np.sort(np.argsort(-(law.weights @ law.codes), kind="stable")[:codes])  # the law's, not this draw's
    names = tuple(cohort.vocabulary.codes[i] for i in kept)
    return replace(cohort, vocabulary=replace(cohort.vocabulary, codes=names), codes=cohort.codes[:, kept])


def survey_figures(survey: Cohort) -> dict[str, Any]:
    """The content of `data/embedded.json`, computed from the survey (`read_nhds`)."""
    law = LatentClasses.fit(survey.top(CODES), CLASSES)
    order = np.argsort(-law.weights)
    return {
        "source": "computed from the US National Hospital Discharge Survey 2010 public-use file (NCHS)",
        "records": len(survey),
        "codes": list(law.vocabulary.codes),
        "columns": {column.name: list(column.levels) for column in law.vocabulary.columns},
        "weights": [round(float(w), 6) for w in law.weights[order]],
        "presence": np.rint(law.codes[order] * SCALE).astype(int).tolist(),
        "levels": {
            column.name: np.rint(own[order] * SCALE).astype(int).tolist()
            for column, own in zip(law.vocabulary.columns, law.columns, strict=True)
        },
    }
