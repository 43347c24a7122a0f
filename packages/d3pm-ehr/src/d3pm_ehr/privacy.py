"""What synthetic records give away: membership, attributes, copies, each beside held-out real records."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.fidelity import prevalence
from d3pm_ehr.nearest_records import nearest

DEFINITIONS = {
    "membership_auc": "AUROC of (- Hamming distance to the nearest synthetic record) for telling training records from "
    "as many held-out ones; 0.5 gives nothing away",
    "membership_accuracy": "accuracy of calling a record a member when that distance is at most the median",
    "membership_f1": "F1 of the same rule",
    "attribute_f1": "micro F1 of predicting the other codes of training records from the nearest synthetic record "
    "in what the attacker knows: the most common codes, and the categorical columns where asked",
    "attribute_f1_entropy": "the same, each code weighted by the entropy of its presence among the training records",
    "exact_copies": "share of these records whose codes equal a training record's",
    "nearest_mean": "mean Hamming distance of these records to the nearest training record",
    "nearest_p05": "5th percentile of that distance",
}


def membership(members: Cohort, others: Cohort, synthetic: Cohort, seed: int = 0) -> dict[str, float | list[float]]:
    """Membership inference from nearest distances, members and non-members equally many.

    Args:
        members: training records.
        others: records that were not trained on.
        synthetic: published records.
        seed: of the choice where one side is larger, and of the bootstrap.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(seed)
    size = min(len(members), len(others))
    sides = [side.codes[np.sort(rng.permutation(len(side))[:size])] for side in (members, others)]
    distance = nearest(sparse.csr_matrix(sparse.vstack(sides)), synthetic.codes)[0]
    truth = np.repeat([1, 0], size)
    called = (distance <= np.median(distance)).astype(int)
    return {
        "membership_auc": float(roc_auc_score(truth, -distance)),
        "membership_auc_interval": _auc_interval(distance[:size], distance[size:], rng),
        "membership_accuracy": float((called == truth).mean()),
        "membership_f1": float(f1_score(truth, called)),
    }


def _auc_interval(inside: NDArray[np.int32], outside: NDArray[np.int32], rng: np.random.Generator) -> list[float]:
    """Bootstrap over records, on the histogram of the distances (small integers)."""
    top = int(max(inside.max(), outside.max())) + 1
    laws = [np.bincount(side, minlength=top) / len(side) for side in (inside, outside)]
    found = []
    for _ in range(200):
        a, b = (rng.multinomial(len(inside), law) / len(inside) for law in laws)
        beyond = b.sum() - np.cumsum(b)
        found.append(float((a * (beyond + b / 2)).sum()))
    return [float(v) for v in np.percentile(found, [2.5, 97.5])]


def attribute_inference(
    targets: Cohort, published: Cohort, known: int = 100, *, columns: bool = False, entropy: bool = False
) -> float:
    """Micro F1 of the codes beyond the `known` most common ones, read off the nearest published record.

    Args:
        targets: records an attacker knows in part.
        published: synthetic records (or held-out real ones, for the baseline).
        known: how many of the most common codes the attacker knows; at most half of all.
        columns: whether the categorical columns (demographics) are known too; with `known` = 0 they are all.
        entropy: weight each code by the entropy of its presence among the targets, so that what is nearly certain
            (a rare code is absent) counts little.
    """
    share = prevalence(targets)
    order = np.argsort(-share, kind="stable")
    count = min(known, len(order) // 2)
    seen, hidden = np.sort(order[:count]), np.sort(order[count:])
    parts = [[side.codes[:, seen], *([_levels(side)] if columns else [])] for side in (targets, published)]
    facts = [sparse.csr_matrix(sparse.hstack(own)).astype(np.uint8) for own in parts]
    if not facts[0].shape[1]:
        return 0.0
    where = nearest(*facts)[1]
    truth, guess = targets.codes[:, hidden], published.codes[where][:, hidden]
    p = np.clip(share[hidden], 1e-12, 1 - 1e-12)
    weight = -(p * np.log(p) + (1 - p) * np.log1p(-p)) if entropy else np.ones(len(hidden))
    hits, there, guessed = (
        float(np.bincount(table.indices, minlength=len(hidden)) @ weight)
        for table in (sparse.csr_matrix(truth.multiply(guess)), truth, guess)
    )
    return 2 * hits / (there + guessed) if there + guessed else 0.0


def _levels(cohort: Cohort) -> sparse.csr_matrix:
    """The categorical columns, a 0/1 column for each level."""
    parts = [
        np.eye(len(c.levels), dtype=np.uint8)[cohort.columns[:, i]] for i, c in enumerate(cohort.vocabulary.columns)
    ]
    return sparse.csr_matrix(np.concatenate([np.zeros((len(cohort), 0), np.uint8), *parts], axis=1))


def copies(records: Cohort, training: Cohort) -> dict[str, float]:
    """Distances to the nearest training record, and exact copies (records without codes aside)."""
    distance = nearest(records.codes, training.codes)[0]
    full = records.lengths() > 0
    return {
        "exact_copies": float((distance[full] == 0).mean()) if full.any() else 0.0,
        "nearest_mean": float(distance.mean()),
        "nearest_p05": float(np.percentile(distance, 5)),
    }


def privacy(
    train: Cohort,
    held_out: Cohort,
    published: Cohort,
    seed: int = 0,
    known: int = 100,
    rows: int = 4000,
    *,
    known_columns: bool = False,
) -> dict[str, Any]:
    """All of `DEFINITIONS` for one set of published records.

    Args:
        train: records of the generator's training.
        held_out: records it has not seen, none of them among the published.
        published: what is judged.
        seed: of the records taken.
        known: codes an attacker knows.
        rows: records taken of each side.
        known_columns: whether the attacker knows the categorical columns too.
    """
    rng = np.random.default_rng(seed)
    targets = train.take(np.sort(rng.permutation(len(train))[:rows]))
    others = held_out.take(np.sort(rng.permutation(len(held_out))[:rows]))
    result: dict[str, Any] = dict(membership(targets, others, published, seed))
    for name, entropy in (("attribute_f1", False), ("attribute_f1_entropy", True)):
        result[name] = attribute_inference(targets, published, known, columns=known_columns, entropy=entropy)
    sample = published.take(np.sort(rng.permutation(len(published))[:rows]))
    return result | copies(sample, train)
