"""How faithful synthetic codes are: prevalence, correlations, pairs, lengths, distributions, predictability.

A definition stands beside every number (`DEFINITIONS`), because the field uses some names for several things.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from d3pm_ehr.cohort import Cohort

DEFINITIONS = {
    "prevalence_spearman": "rank correlation of the codes' prevalences, all codes",
    "prevalence_spearman_floor": "the same over codes with at least the prevalence floor in the real records",
    "prevalence_pearson": "correlation of the prevalences (dominated by common codes)",
    "prevalence_r2": "1 - SSE / SST of the prevalences (not Pearson squared)",
    "prevalence_rmse": "root mean squared difference of the prevalences",
    "prevalence_max_error": "largest absolute difference of the prevalences",
    "codes_never_generated": "codes that are in the real records and in no synthetic one",
    "cmd": "Frobenius norm of the difference of the correlation matrices, all codes (rare codes add sampling noise)",
    "cmd_floor": "the same over codes with at least the prevalence floor",
    "correlation_mean_error": "mean absolute difference of the correlations, codes above the floor, off the diagonal",
    "bigram_r2": "1 - SSE / SST of the probabilities that two codes occur together",
    "mmd2": "unbiased squared maximum mean discrepancy, RBF of median distance times 1/2, 1 and 2, averaged",
    "mcad": "half the L1 distance of the histograms of codes per record",
    "codes_per_record": "mean number of codes in a record",
    "codes_per_record_sd": "standard deviation of that number",
    "length_wasserstein": "Wasserstein-1 distance of the laws of codes per record",
    "dwp_auroc_error": "mean absolute difference of AUROC, predicting a code from the others: trained on these records "
    "minus trained on real ones, tested on the held-out",
    "dwp_auroc_pearson": "correlation of those AUROCs over codes",
}


def prevalence(cohort: Cohort) -> NDArray[np.float64]:
    """Share of records with each code."""
    return np.bincount(cohort.codes.indices, minlength=cohort.codes.shape[1]) / max(1, len(cohort))


def cooccurrence(cohort: Cohort, rows: slice = slice(None)) -> NDArray[np.float64]:
    """Share of records with both of two codes, [these codes, codes]."""
    table = cohort.codes.astype(np.float64)
    return np.asarray((table[:, rows].T @ table).todense()) / len(cohort)


def correlation(
    pairs: NDArray[np.float64], p: NDArray[np.float64] | None = None, start: int = 0
) -> NDArray[np.float64]:
    """Correlation matrix from co-occurrence; a constant code has 0 with the others and 1 with itself.

    Args:
        pairs: co-occurrence, whole or some of its rows.
        p: prevalence of all codes; the diagonal of a whole matrix by default.
        start: code of the first row.
    """
    p = np.diag(pairs) if p is None else p
    own = np.arange(len(pairs))
    sd = np.sqrt(p * (1 - p))
    scale = np.outer(sd[start + own], sd)
    covariance = pairs - np.outer(p[start + own], p)
    result = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-15)
    result[own, start + own] = 1
    return result


def pair_errors(real: Cohort, synthetic: Cohort, common: NDArray[np.bool_], block: int = 512) -> dict[str, float]:
    """CMD, its values over `common` codes and the bigram R2, some rows of the matrices at a time.

    Thousands of codes have tens of millions of pairs: whole matrices of them would not fit.
    """
    p, q = prevalence(real), prevalence(synthetic)
    square = square_floor = absolute = 0.0
    missed = total = total_square = 0.0
    for start in range(0, len(p), block):
        rows = slice(start, min(start + block, len(p)))
        truth, found = cooccurrence(real, rows), cooccurrence(synthetic, rows)
        error = correlation(truth, p, start) - correlation(found, q, start)
        between = error[np.ix_(common[rows], common)]
        square += float((error**2).sum())
        square_floor += float((between**2).sum())
        absolute += float(np.abs(between).sum())
        upper = np.arange(len(p)) > np.arange(rows.start, rows.stop)[:, None]
        missed += float(((truth - found) ** 2)[upper].sum())
        total += float(truth[upper].sum())
        total_square += float((truth[upper] ** 2).sum())
    count, off = len(p) * (len(p) - 1) // 2, int(common.sum()) * (int(common.sum()) - 1)
    spread = total_square - total**2 / max(1, count)
    return {
        "cmd": square**0.5,
        "cmd_floor": square_floor**0.5,
        "correlation_mean_error": absolute / off if off else 0.0,
        "bigram_r2": 1 - missed / spread if spread > 1e-15 else float(missed == 0),
    }


def r2(truth: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """1 - SSE / SST; 0 where the truth is constant and missed, 1 where it is met."""
    sse, sst = float(((truth - found) ** 2).sum()), float(((truth - truth.mean()) ** 2).sum())
    return 1 - sse / sst if sst > 0 else float(sse == 0)


def fidelity(
    real: Cohort, synthetic: Cohort, floor: float = 0.01, seed: int = 0, mmd_rows: int = 1000
) -> dict[str, Any]:
    """All of `DEFINITIONS` but the dimension-wise prediction, of synthetic codes against real ones.

    Args:
        real: held-out records.
        synthetic: records to judge, ideally as many.
        floor: prevalence in the real records from which a code counts as not rare.
        seed: of the records taken for MMD.
        mmd_rows: records taken for MMD, of each side.
    """
    p, q = prevalence(real), prevalence(synthetic)
    common = p >= floor
    lengths = real.lengths(), synthetic.lengths()
    return {
        "prevalence_spearman": _rank(p, q),
        "prevalence_spearman_floor": _rank(p[common], q[common]),
        "prevalence_pearson": float(np.corrcoef(p, q)[0, 1]) if p.std() > 0 and q.std() > 0 else 0.0,
        "prevalence_r2": r2(p, q),
        "prevalence_rmse": float(np.sqrt(((p - q) ** 2).mean())),
        "prevalence_max_error": float(np.abs(p - q).max()),
        "codes_never_generated": int(((p > 0) & (q == 0)).sum()),
        **pair_errors(real, synthetic, common),
        "mmd2": mmd2(real, synthetic, mmd_rows, seed),
        "mcad": length_distance(*lengths),
        "codes_per_record": float(lengths[1].mean()),
        "codes_per_record_sd": float(lengths[1].std()),
        "length_wasserstein": float(stats.wasserstein_distance(*lengths)),
    }


def _rank(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    if len(p) < 2 or p.std() == 0 or q.std() == 0:
        return 0.0
    return float(stats.spearmanr(p, q)[0])


def length_distance(real: NDArray[np.int64], synthetic: NDArray[np.int64], bins: int | None = None) -> float:
    """MCAD: half the L1 distance of the histograms of codes per record, a bin an integer or `bins` equal ones."""
    top = int(max(real.max(), synthetic.max())) + 1
    edges = np.arange(top + 1) - 0.5 if bins is None else np.linspace(-0.5, top - 0.5, bins + 1)
    first, second = (np.histogram(values, edges)[0] / len(values) for values in (real, synthetic))
    return float(np.abs(first - second).sum() / 2)


def mmd2(real: Cohort, synthetic: Cohort, rows: int = 1000, seed: int = 0) -> float:
    """Unbiased MMD^2 with an RBF kernel; bandwidths median distance times 1/2, 1, 2, averaged. Can be below 0."""
    rng = np.random.default_rng(seed)
    size = min(rows, len(real), len(synthetic))
    if size < 2:
        return 0.0
    x, y = (cohort.codes[np.sort(rng.permutation(len(cohort))[:size])] for cohort in (real, synthetic))
    within_x, within_y, across = _squared(x, x), _squared(y, y), _squared(x, y)
    median = float(np.median(across[across > 0])) if (across > 0).any() else 1.0
    total, off = 0.0, ~np.eye(size, dtype=bool)
    for factor in (0.5, 1.0, 2.0):
        width = 2 * median * factor**2
        total += float(
            np.exp(-within_x / width)[off].mean() + np.exp(-within_y / width)[off].mean()
            - 2 * np.exp(-across / width).mean()
        )  # fmt: skip
    return total / 3


def _squared(x: sparse.csr_matrix, y: sparse.csr_matrix) -> NDArray[np.float64]:
    """Squared Euclidean, which is Hamming, distances."""
    product = np.asarray((x.astype(np.float64) @ y.T.astype(np.float64)).todense())
    return np.diff(x.indptr)[:, None] + np.diff(y.indptr)[None, :] - 2 * product


def code_auroc(train: Cohort, test: Cohort, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """AUROC on `test` of logistic regressions of each code on all others, trained on `train`; 0.5 where impossible."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    found = []
    others = np.ones(train.codes.shape[1], bool)
    dense = {"train": train.codes.astype(np.float64).tocsc(), "test": test.codes.astype(np.float64).tocsc()}
    for code in codes:
        y, truth = (dense[name][:, [code]].toarray().ravel() for name in ("train", "test"))
        if min(y.sum(), len(y) - y.sum()) < 2 or truth.min() == truth.max():
            found.append(0.5)
            continue
        others[code] = False
        model = LogisticRegression(C=0.1, max_iter=50, solver="liblinear", tol=1e-3)
        model.fit(dense["train"][:, others].tocsr(), y)
        found.append(float(roc_auc_score(truth, model.decision_function(dense["test"][:, others].tocsr()))))
        others[code] = True
    return np.array(found)


def dimension_wise_prediction(
    reference: NDArray[np.float64], train: Cohort, test: Cohort, codes: NDArray[np.int64]
) -> dict[str, float]:
    """How well the codes predict each other, beside `reference` (their AUROCs when trained on real records)."""
    found = code_auroc(train, test, codes)
    same = found.std() == 0 or reference.std() == 0
    return {
        "dwp_auroc_error": float(np.abs(found - reference).mean()),
        "dwp_auroc_pearson": 0.0 if same else float(np.corrcoef(found, reference)[0, 1]),
    }


def prediction_codes(real: Cohort, count: int = 16, floor: float = 0.01) -> NDArray[np.int64]:
    """`count` codes spread over the frequencies above the floor."""
    p = prevalence(real)
    order = np.argsort(-p, kind="stable")
    common = order[p[order] >= floor]
    common = common if len(common) else order[:1]
    return common[np.unique(np.linspace(0, len(common) - 1, min(count, len(common))).round().astype(int))]
