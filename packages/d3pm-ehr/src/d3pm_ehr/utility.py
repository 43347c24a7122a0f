"""Train on synthetic, test on real: LightGBM for six chronic diseases, and synthetic rows as augmentation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from shared_core.errors import InputError

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.vocabulary import Vocabulary

# categories of the diagnoses, ICD-9 and ICD-10
DISEASES: dict[str, dict[str, tuple[str, ...]]] = {
    "diabetes": {"ICD9CM": ("250",), "ICD10CM": ("E11",)},
    "kidney disease": {"ICD9CM": ("585", "403", "404"), "ICD10CM": ("N18", "I12", "I13")},
    "COPD": {"ICD9CM": ("491", "492", "496"), "ICD10CM": ("J41", "J42", "J43", "J44")},
    "asthma": {"ICD9CM": ("493",), "ICD10CM": ("J45",)},
    "hypertensive heart": {"ICD9CM": ("402", "404"), "ICD10CM": ("I11", "I13")},
    "osteoarthritis": {"ICD9CM": ("715",), "ICD10CM": ("M15", "M16", "M17", "M18", "M19")},
}
BOOTSTRAPS = 200


@dataclass(frozen=True)
class Task:
    """A label made of codes, which are then no features.

    Attributes:
        name: of the disease.
        codes: columns of the codes that make the label.
    """

    name: str
    codes: tuple[int, ...]

    def label(self, cohort: Cohort) -> NDArray[np.int8]:
        """Whether each record has one of the codes."""
        return (np.asarray(cohort.codes[:, list(self.codes)].sum(1)).ravel() > 0).astype(np.int8)

    def features(self, cohort: Cohort) -> sparse.csr_matrix:
        """All other codes, and the categorical columns as they are."""
        kept = np.setdiff1d(np.arange(cohort.codes.shape[1]), self.codes)
        parts = [cohort.codes[:, kept].astype(np.float32), sparse.csr_matrix(cohort.columns.astype(np.float32))]
        return sparse.csr_matrix(sparse.hstack(parts))


def check_no_leak(task: Task, cohort: Cohort, least: int = 20) -> None:
    """Refuse a label that another code gives away: one that is there exactly where the label is.

    Args:
        task: the label.
        cohort: real records.
        least: records with the label from which such a coincidence is none.

    Raises:
        InputError: naming the code.
    """
    label = task.label(cohort).astype(np.int64)
    positives = int(label.sum())
    if not least <= positives < len(cohort):
        return
    there = np.bincount(cohort.codes.indices, minlength=cohort.codes.shape[1])
    both = np.asarray(cohort.codes.T.astype(np.int64) @ label)
    same = np.setdiff1d(np.flatnonzero((there == positives) & (both == positives)), task.codes)
    if len(same):
        code = cohort.vocabulary.codes[same[0]]
        raise InputError(f"label {task.name!r} is left among the features: code {code} is in exactly the same "
                         f"{positives} records; import the table without it, or add it to the label")  # fmt: skip


def disease_tasks(vocabulary: Vocabulary) -> list[Task]:
    """The six chronic diseases, as far as the vocabulary has their codes (truncated or full, ICD-9, ICD-10 or MEDS)."""
    tasks = []
    for name, systems in DISEASES.items():
        found = []
        for index, code in enumerate(vocabulary.codes):
            system, text = _system_of(code)
            if any(text.startswith(prefix) for prefix in systems.get(system, ())):
                found.append(index)
        if found:
            tasks.append(Task(name, tuple(found)))
    return tasks


def _system_of(code: str) -> tuple[str, str]:
    if "ICD//10//" in code or "ICD10CM//" in code:
        return "ICD10CM", code.rpartition("//")[2]
    if "ICD//9//" in code or "ICD9CM//" in code:
        return "ICD9CM", code.rpartition("//")[2]
    system, colon, text = code.rpartition(":")
    return (system, text) if colon else ("ICD9CM", text)


def custom_task(name: str, codes: list[str], vocabulary: Vocabulary) -> Task:
    """A label of any codes.

    Raises:
        InputError: for a code that is not in the vocabulary, or is a column.
    """
    place = {code: index for index, code in enumerate(vocabulary.codes)}
    columns = []
    for code in codes:
        full = vocabulary.names[vocabulary.find(code)]
        if full not in place:
            raise InputError(f"{code!r} is a column; a label is made of codes")
        columns.append(place[full])
    return Task(name, tuple(columns))


def scores(train: list[Cohort], test: Cohort, task: Task, seed: int = 0, intervals: bool = True) -> dict[str, Any]:
    """AUROC and AUPR on `test` of a LightGBM (60 trees, 15 leaves) trained on the records of `train` together.

    Args:
        train: cohorts to learn from.
        test: real records.
        task: the label.
        seed: of the trees and the bootstrap.
        intervals: 95 % percentile intervals over 200 bootstrap samples of the test records.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    y = np.concatenate([task.label(cohort) for cohort in train])
    truth = task.label(test)
    if truth.min() == truth.max():
        return {"auroc": None, "aupr": None, "note": "the test records have one class only"}
    if y.min() == y.max():  # a generator that never makes the disease predicts nothing
        guess = np.zeros(len(truth))
    else:
        guess = _fit(sparse.vstack([task.features(cohort) for cohort in train]), y, task.features(test), seed)
    result: dict[str, Any] = {
        "auroc": float(roc_auc_score(truth, guess)), "aupr": float(average_precision_score(truth, guess)),
        "positives": int(truth.sum()),
    }  # fmt: skip
    if intervals:
        result |= _intervals(truth, guess, seed)
    return result


def _fit(x: Any, y: NDArray[np.int8], test: Any, seed: int) -> NDArray[np.float64]:
    import lightgbm

    settings = {
        "objective": "binary", "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 20, "seed": seed,
        "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
    }  # fmt: skip
    data = lightgbm.Dataset(sparse.csr_matrix(x), label=y, params={"verbose": -1, "min_data_in_bin": 1})
    return np.asarray(lightgbm.train(settings, data, num_boost_round=60).predict(test))


def _intervals(truth: NDArray[np.int8], guess: NDArray[np.float64], seed: int) -> dict[str, list[float]]:
    """Bootstrap over test records, by weights on the sorted guesses (one sort for all of them)."""
    rng = np.random.default_rng(seed)
    order = np.argsort(-guess, kind="stable")
    y, ends = truth[order].astype(float), np.flatnonzero(np.diff(guess[order], append=-np.inf))
    auroc, aupr = [], []
    for _ in range(BOOTSTRAPS):
        weight = np.bincount(rng.integers(len(y), size=len(y)), minlength=len(y))
        hits, misses = np.cumsum(weight * y)[ends], np.cumsum(weight * (1 - y))[ends]
        if hits[-1] == 0 or misses[-1] == 0:
            continue
        previous = np.concatenate([[0], hits[:-1]])
        steps = np.diff(misses, prepend=0)
        auroc.append(float((steps * (hits + previous) / 2).sum() / (hits[-1] * misses[-1])))
        precision = hits / np.maximum(hits + misses, 1e-12)
        aupr.append(float(((hits - previous) * precision).sum() / hits[-1]))
    return {"auroc_interval": _central(auroc), "aupr_interval": _central(aupr)}


def _central(values: list[float]) -> list[float]:
    return [float(v) for v in np.percentile(values, [2.5, 97.5])] if values else [float("nan")] * 2


def augmentation(
    small: Cohort, synthetic: Cohort, test: Cohort, tasks: list[Task], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Scores with few real records alone, and with synthetic ones added, for each task."""
    result = {}
    for task in tasks:
        alone, added = scores([small], test, task, seed), scores([small, synthetic], test, task, seed)
        result[task.name] = {"real alone": alone, "real + synthetic": added}
    return result
