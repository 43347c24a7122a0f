"""Paired statistics: McNemar, bootstrap (plain, clustered), Holm, Wilson, kappa, the price of choosing the best."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Paired:
    """Two conditions on the same items.

    Args:
        n: items.
        lost: right before (a), wrong after (b).
        gained: wrong before, right after.
        difference: accuracy of b minus accuracy of a, in [-1, 1].
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        p: exact two-sided McNemar p-value (with clusters: sign-flip over clusters).
        clusters: how many independent groups of items; n where items are independent.
    """

    n: int
    lost: int
    gained: int
    difference: float
    low: float
    high: float
    p: float
    clusters: int


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar p-value: min(1, 2 P[Binomial(lost + gained, 1/2) <= min(lost, gained)]).

    Computed in integers, so that it is right to the last bit; 1 where there are no discordant pairs.

    Raises:
        ValueError: for negative counts.
    """
    if lost < 0 or gained < 0:
        raise ValueError(f"counts must not be negative, got {lost} and {gained}")
    total = lost + gained
    tail = sum(math.comb(total, k) for k in range(min(lost, gained) + 1))
    return 1.0 if 2 * tail >= 2**total else 2 * tail / 2**total


def wilson(right: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a proportion: the roots p of (right/n - p)^2 = z^2 p (1 - p) / n.

    Raises:
        ValueError: unless 0 <= right <= n and n > 0.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"need 0 <= right <= n and n > 0, got {right} of {n}")
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at 0 and at n the exact end is the share itself, which rounding misses
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def accuracy_interval(right: Sequence[bool], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Wilson interval of an accuracy whose answers may be repeats of the same questions.

    With several answers per cluster n is replaced by the effective n = p (1 - p) / v, where v is the between-cluster
    variance of the mean (never more than n, never less than the number of clusters; the latter where v cannot be
    estimated because all are right or wrong). Five samples of one question are not five questions.

    Raises:
        ValueError: if the lengths differ or there is nothing.
    """
    n = len(right)
    sums, sizes = _cluster_sums([float(value) for value in right], clusters)
    k = len(sums)
    if k == n:
        return wilson(sum(right), n)
    share = sums.sum() / n
    variance = k / max(k - 1, 1) * float(((sums - share * sizes) ** 2).sum()) / n**2
    effective = share * (1 - share) / variance if variance > 0 else k
    size = min(n, max(k, effective))
    return wilson(min(share * size, size), size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_bootstrap(
    lost: int, gained: int, n: int, *, seed: int = 0, reps: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the accuracy difference over resampled items.

    Resampling n items with replacement makes (lost, gained, tied) a multinomial of n draws, which is drawn directly:
    O(reps), exact. Where no item changed there is nothing to resample: see `_unchanged`.

    Raises:
        ValueError: for n below 1, or more changes than items.
    """
    if n <= 0 or lost + gained > n:
        raise ValueError(f"need n > 0 and lost + gained <= n, got {lost}, {gained}, {n}")
    if lost + gained == 0:
        return _unchanged(n, level)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(n, [lost / n, gained / n, (n - lost - gained) / n], size=reps)
    return _interval((draws[:, 1] - draws[:, 0]) / n, level)


def clustered_bootstrap(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    reps: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean difference, whole clusters resampled with replacement.

    Args:
        differences: b minus a of each item (-1, 0, 1, or fractions over samples).
        clusters: what each item shares with others, e.g. the person asked about.
        seed: of the draws.
        reps: draws.
        level: coverage.
    """
    sums, sizes = _cluster_sums(differences, clusters)
    if not np.any(differences):
        return _unchanged(len(sums), level)
    generator = np.random.default_rng(seed)
    ends = []
    for start in range(0, reps, 1000):  # in pieces: reps x clusters integers at once would be gigabytes
        count = min(1000, reps - start)
        weights = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=count)
        ends.append((weights @ sums) / (weights @ sizes))
    return _interval(np.concatenate(ends), level)


def sign_flip(
    differences: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0, reps: int = 20_000
) -> float:
    """Two-sided p-value of no difference: the signs of whole clusters are flipped.

    All 2^k sign patterns where at most 14 clusters differ, else `reps` random ones (then never below 1 / (reps + 1)).
    """
    sums, _ = _cluster_sums(differences, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    if len(sums) <= 14:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float(np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9))
    generator = np.random.default_rng(seed)
    hits = 0
    for start in range(0, reps, 2000):
        signs = generator.integers(0, 2, size=(min(2000, reps - start), len(sums))) * 2 - 1
        hits += int(np.sum(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9))
    return (hits + 1) / (reps + 1)


def compare(
    before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Paired:
    """Compare two conditions item by item.

    Without clusters: exact McNemar and the multinomial bootstrap. With clusters that hold several items: sign-flip and
    the clustered bootstrap, because McNemar would count a person's three questions as independent.

    Raises:
        ValueError: if the lengths differ or there is nothing to compare.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need the same items on both sides, got {len(before)} and {len(after)}")
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    n = len(before)
    groups = n if clusters is None else len(set(clusters))
    if clusters is None or groups == n:
        low, high = paired_bootstrap(lost, gained, n, seed=seed)
        p = mcnemar(lost, gained)
    else:
        change = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
        low, high = clustered_bootstrap(change, clusters, seed=seed)
        p = sign_flip(change, clusters, seed=seed)
    return Paired(n, lost, gained, (gained - lost) / n, low, high, p, groups)


@dataclass(frozen=True)
class BestOf:
    """The best of several variants, and what choosing it on the same items costs.

    Args:
        best: index of the variant with the highest accuracy (the first of equals).
        naive: its gain over the baseline on the items that chose it.
        corrected: mean gain out of bag: chosen on a bootstrap sample, measured on the items not in it.
        p: p-value of "no variant differs from the baseline", by the largest gain under sign flips (family-wise).
        variants: how many there were to choose from.
    """

    best: int
    naive: float
    corrected: float
    p: float
    variants: int


def best_of(
    variants: Bool[np.ndarray, "variant item"],
    baseline: Bool[np.ndarray, "item"],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    reps: int = 4000,
) -> BestOf:
    """Choose the best variant and correct for having chosen (the paper's headline takes the better variant per task).

    Signs are flipped and bootstrap samples drawn for whole clusters; every item is its own by default.

    Raises:
        ValueError: if the shapes do not fit or there are fewer than two clusters.
    """
    variants, baseline = np.asarray(variants, dtype=float), np.asarray(baseline, dtype=float)
    if variants.ndim != 2 or variants.shape[1:] != baseline.shape:
        raise ValueError(f"need variants (k, n) and a baseline (n), got {variants.shape} and {baseline.shape}")
    labels = list(range(baseline.size)) if clusters is None else clusters
    rights = np.stack([_cluster_sums(row.tolist(), labels)[0] for row in variants])
    base, sizes = _cluster_sums(baseline.tolist(), labels)
    k, n = base.size, baseline.size
    if k < 2:
        raise ValueError("need at least two clusters of items to choose on")
    gains = rights - base
    best = int(rights.sum(axis=1).argmax())
    observed = gains.sum(axis=1).max()
    generator = np.random.default_rng(seed)
    hits, held_out = 0, []
    for start in range(0, reps, 500):
        count = min(500, reps - start)
        signs = generator.integers(0, 2, size=(count, k)) * 2.0 - 1
        hits += int(np.sum((signs @ gains.T).max(axis=1) >= observed - 1e-9))
        weights = generator.multinomial(k, np.full(k, 1 / k), size=count)
        chosen = (weights @ rights.T).argmax(axis=1)
        outside = (weights == 0).astype(float)
        held_out.append((outside @ gains.T)[np.arange(count), chosen] / np.maximum(outside @ sizes, 1))
    corrected = float(np.concatenate(held_out).mean())
    return BestOf(best, float(gains[best].sum() / n), corrected, (hits + 1) / (reps + 1), len(variants))


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa (p_o - p_e) / (1 - p_e) of two markings of the same things; 1 where both are constant and equal."""
    if len(first) != len(second) or not first:
        raise ValueError(f"need two markings of the same things, got {len(first)} and {len(second)}")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum((list(first).count(mark) / n) * (list(second).count(mark) / n) for mark in {*first, *second})
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


def _cluster_sums(
    differences: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[Float[np.ndarray, "cluster"], Float[np.ndarray, "cluster"]]:
    if len(differences) != len(clusters) or not differences:
        raise ValueError(f"need a cluster for every item, got {len(differences)} and {len(clusters)}")
    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(cluster, len(places)) for cluster in clusters])
    sums = np.bincount(index, weights=np.asarray(differences, dtype=float))
    return sums, np.bincount(index).astype(float)


def _unchanged(n: int, level: float) -> tuple[float, float]:
    """Interval where none of n changed: [-d, d] with (1 - d)^n = (1 - level) / 2, for a change is not impossible."""
    most = 1 - ((1 - level) / 2) ** (1 / n)
    return -most, most


def _interval(draws: Float[np.ndarray, "draw"], level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
