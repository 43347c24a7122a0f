"""How far generated samples are from real ones, and how scores of two models compare.

Distances work on given features, one row a sample: pixels, or what any encoder makes of them. Fréchet and kernel
distances are biased at few samples in the first case and noisy in the second: compare models only at equal numbers
of rows, and beside the distance between two halves of the real data (the floor).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Rows = Float[np.ndarray, "rows features"]


class Estimate(NamedTuple):
    """A number with its bootstrap interval."""

    value: float
    low: float
    high: float


class PrecisionRecall(NamedTuple):
    """Shares of generated samples near the real ones (precision) and of real samples near the generated (recall)."""

    precision: float
    recall: float


def frechet_distance(real: Any, generated: Any) -> float:
    """Squared 2-Wasserstein distance of the Gaussians fitted to both sets (FID, where the features are Inception's).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), in float64.

    Args:
        real, generated: features, one row a sample (tensor or array; images are flattened).

    Raises:
        ValueError: if a set has fewer than two rows, the widths differ, or a value is not finite.
    """
    x, y = _two_sets(real, generated)
    mean_gap = x.mean(0) - y.mean(0)
    cov_x, cov_y = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0)).sum()
    return float(max(mean_gap @ mean_gap + np.trace(cov_x) + np.trace(cov_y) - 2 * cross, 0.0))


def kernel_distance(
    real: Any, generated: Any, kernel: Literal["polynomial", "gaussian"] = "polynomial", bandwidth: float | None = None
) -> float:
    """Unbiased squared maximum mean discrepancy; it may be slightly negative where the sets agree.

    Args:
        real, generated: features, one row a sample.
        kernel: `polynomial` is (x.y / width + 1)^3, the one of KID; `gaussian` is exp(-|x - y|^2 / (2 bandwidth^2)).
        bandwidth: of the Gaussian kernel, in units of the features; the median distance of all pairs if not given.

    Raises:
        ValueError: as `frechet_distance`, and for an unknown kernel or a bandwidth that is not positive.
    """
    x, y = _two_sets(real, generated)
    if kernel == "polynomial":
        grams = [(a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    elif kernel == "gaussian":
        distances = [_squared_distances(a, b) for a, b in ((x, x), (y, y), (x, y))]
        width = bandwidth if bandwidth is not None else float(np.sqrt(np.median(distances[2])))
        if not width > 0:
            raise ValueError(f"bandwidth must be positive, got {width}")
        grams = [np.exp(-d / (2 * width**2)) for d in distances]
    else:
        raise ValueError(f"kernel must be polynomial or gaussian, got {kernel!r}")
    within = [(gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)) for gram in grams[:2]]
    return float(sum(within) - 2 * grams[2].mean())


def precision_recall(real: Any, generated: Any, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019): shares inside the other set's k-nearest balls.

    Args:
        real, generated: features, one row a sample.
        neighbours: k; the radius around a sample is the distance to its k-th nearest in its own set.

    Raises:
        ValueError: as `frechet_distance`, and if a set has no k-th neighbour.
    """
    x, y = _two_sets(real, generated)
    if not 1 <= neighbours < min(len(x), len(y)):
        raise ValueError(f"neighbours must be in 1..{min(len(x), len(y)) - 1}, got {neighbours}")
    between = _squared_distances(x, y)
    radius_x, radius_y = (np.partition(_squared_distances(z, z), neighbours, axis=1)[:, neighbours] for z in (x, y))
    precision = (between <= radius_x[:, None]).any(0).mean()
    recall = (between <= radius_y[None, :]).any(1).mean()
    return PrecisionRecall(float(precision), float(recall))


def two_sample_accuracy(
    real: Any, generated: Any, *, folds: int = 5, neighbours: int | None = None, seed: int = 0
) -> float:
    """Held-out balanced accuracy of a classifier of real against generated: 0.5 if nothing tells them apart.

    Args:
        real, generated: features, one row a sample.
        folds: of the cross-validation.
        neighbours: k of a nearest-neighbour vote; by default logistic regression on features and their squares.
        seed: of the folds.

    Raises:
        ValueError: as `frechet_distance`, and if a set has fewer rows than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _two_sets(real, generated)
    if min(len(x), len(y)) < folds:
        raise ValueError(f"{folds} folds need as many rows on both sides, got {len(x)} and {len(y)}")
    rows, labels = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    classifier: Any = KNeighborsClassifier(neighbours) if neighbours else LogisticRegression(max_iter=1000)
    if not neighbours:  # squares without products: the width stays twice the features', and spreads can be told apart
        centred = rows - rows.mean(0)
        rows = np.concatenate([centred, centred**2], axis=1)
    model = make_pipeline(StandardScaler(), classifier)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(model, rows, labels, cv=splits, scoring="balanced_accuracy").mean())


def class_accuracy(logits: Any, labels: Any) -> float:
    """Share of samples whose most likely class is the one asked for.

    Raises:
        ValueError: if the numbers of rows differ or are zero.
    """
    scores, wanted = _array(logits), np.asarray(_plain(labels))
    if scores.ndim != 2 or wanted.shape != scores.shape[:1] or not len(wanted):
        raise ValueError(f"need one label a row of scores, got shapes {scores.shape} and {wanted.shape}")
    return float((scores.argmax(1) == wanted).mean())


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], Any] = lambda rows: rows.mean(-1),
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap interval of a statistic of independent values.

    Args:
        values: one number an independent unit (a prompt, a seed).
        statistic: of the last axis; it is given all resamples at once.
        level: of the interval.
        draws: number of resamples.
        seed: of the resamples.

    Raises:
        ValueError: if there is no value, one is not finite, or level is not in (0, 1).
    """
    data = _array(values).ravel()
    if not len(data) or not np.isfinite(data).all():
        raise ValueError("the bootstrap needs at least one value, all of them finite")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    generator = np.random.default_rng(seed)
    resampled = statistic(data[generator.integers(len(data), size=(draws, len(data)))])
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(statistic(data)), float(low), float(high))


def win_rate(ours: Any, theirs: Any, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Estimate:
    """Share of prompts on which our score is higher, ties counted one half, with its bootstrap interval.

    Args:
        ours, theirs: scores by prompt, in the same order; with a second axis (samples of a prompt) its mean counts.

    Raises:
        ValueError: if the shapes differ, and as `bootstrap`.
    """
    a, b = _array(ours), _array(theirs)
    if a.shape != b.shape:
        raise ValueError(f"scores of both models must have one shape, got {a.shape} and {b.shape}")
    if a.ndim > 1:
        a, b = a.mean(-1), b.mean(-1)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a score is not finite")
    return bootstrap((a > b) + 0.5 * (a == b), level=level, draws=draws, seed=seed)


def best_of_n(scores: Any) -> Float[np.ndarray, " prompts"]:
    """The best score of each prompt's samples, `scores[prompt, sample]`: what the paper averages over prompts.

    Raises:
        ValueError: if `scores` is not a filled matrix.
    """
    matrix = _array(scores)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"scores must be [prompts, samples], got shape {matrix.shape}")
    return matrix.max(1)


def summary(scores: Any) -> dict[str, float]:
    """Mean and median over prompts, of single samples and of the best of each prompt's n.

    Args:
        scores: [prompts] or [prompts, samples].
    """
    matrix = _array(scores)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    best = best_of_n(matrix)
    found = {"mean": float(matrix.mean()), "median": float(np.median(matrix))}
    if matrix.shape[1] > 1:
        found |= {f"best_of_{matrix.shape[1]}_mean": float(best.mean())}
        found |= {f"best_of_{matrix.shape[1]}_median": float(np.median(best))}
    return found


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _array(values: Any) -> np.ndarray:
    return np.asarray(_plain(values), dtype=np.float64)


def _two_sets(real: Any, generated: Any) -> tuple[Rows, Rows]:
    x, y = ((a[:, None] if a.ndim == 1 else a.reshape(len(a), -1)) for a in map(_array, (real, generated)))
    for name, rows in (("real", x), ("generated", y)):
        if len(rows) < 2:
            raise ValueError(f"the {name} set needs at least two rows, got {len(rows)}")
        if not np.isfinite(rows).all():
            raise ValueError(f"a feature of the {name} set is not finite")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of both sets must have one width, got {x.shape[1]} and {y.shape[1]}")
    return x, y


def _squared_distances(a: Rows, b: Rows) -> Rows:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T, 0)
