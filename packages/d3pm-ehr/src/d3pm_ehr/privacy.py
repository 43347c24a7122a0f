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
    "in the most common codes",
    "exact_copies": "share of these records that equal a training record",
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


def attribute_inference(targets: Cohort, published: Cohort, known: int = 100) -> float:
    """Micro F1 of the codes beyond the `known` most common ones, read off the nearest published record.

    Args:
        targets: records an attacker knows in part.
        published: synthetic records (or held-out real ones, for the baseline).
        known: how many of the most common codes the attacker knows; at most half of all.
    """
    order = np.argsort(-prevalence(targets), kind="stable")
    count = min(known, len(order) // 2)
    seen, hidden = np.sort(order[:count]), np.sort(order[count:])
    if not count:
        return 0.0
    where = nearest(sparse.csr_matrix(targets.codes[:, seen]), sparse.csr_matrix(published.codes[:, seen]))[1]
    truth, guess = targets.codes[:, hidden], published.codes[where][:, hidden]
    hits = int(truth.multiply(guess).sum())
    return 2 * hits / max(1, int(truth.sum()) + int(guess.sum()))


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
    train: Cohort, held_out: Cohort, published: Cohort, seed: int = 0, known: int = 100, rows: int = 4000
) -> dict[str, Any]:
    """All of `DEFINITIONS` for one set of published records.

    Args:
        train: records of the generator's training.
        held_out: records it has not seen, none of them among the published.
        published: what is judged.
        seed: of the records taken.
        known: codes an attacker knows.
        rows: records taken of each side.
    """
    rng = np.random.default_rng(seed)
    targets = train.take(np.sort(rng.permutation(len(train))[:rows]))
    others = held_out.take(np.sort(rng.permutation(len(held_out))[:rows]))
    result: dict[str, Any] = dict(membership(targets, others, published, seed))
    result["attribute_f1"] = attribute_inference(targets, published, known)
    sample = published.take(np.sort(rng.permutation(len(published))[:rows]))
    return result | copies(sample, train)
