"""95% intervals by resampling clusters of queries.

Queries that share a source are not independent: one easy item with a thousand hidden users
is one piece of evidence, not a thousand. So whole clusters are drawn with replacement
(users for user-to-item, items for item-to-user) and the metric is the mean over the drawn
queries. All columns share the same draws, so a column of differences gives the paired
interval of two scorers on the same queries.

Cost:   `resamples` x C random draws; no [resamples, Q] array is built.
Shapes: Q queries, M columns (metrics), C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RESAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class Intervals:
    """Means and their percentile intervals, float64 [M] each; NaN bounds when C < 2."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def cluster_bootstrap(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Intervals:
    """Mean over queries with a percentile bootstrap interval over clusters.

    Args:
        values: float [Q, M], a column per metric or difference; Q >= 1.
        clusters: int [Q], any labels.
        resamples: bootstrap samples.
        level: share of resamples inside the interval.
        seed: same seed, same interval.

    Returns:
        Intervals of M columns. With a single cluster nothing is known about the spread:
        the bounds are NaN.

    Raises:
        ValueError: no query, or shapes differ.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0 or len(values) != len(clusters):
        raise ValueError("values must be [Q, M] with Q >= 1 and one cluster per query")
    sums, counts = _cluster_sums(values, clusters)
    mean = values.mean(axis=0)
    if len(counts) < 2:
        return Intervals(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return Intervals(mean, low, high)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    clusters: np.ndarray,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """First minus second, on the same queries: arguments and result as `cluster_bootstrap`."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return cluster_bootstrap(difference, clusters, resamples=resamples, level=level, seed=seed)


def _cluster_sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.unique(clusters, return_inverse=True)[1]
    counts = np.bincount(labels).astype(np.float64)
    columns = [np.bincount(labels, weights=column) for column in values.T]
    return np.stack(columns, axis=1), counts


def _resampled_means(
    sums: np.ndarray, counts: np.ndarray, resamples: int, random: np.random.Generator
) -> np.ndarray:
    means = np.empty((resamples, sums.shape[1]))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        rows = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = random.integers(0, len(counts), size=(rows, len(counts)))
        drawn += np.arange(rows)[:, None] * len(counts)
        times = np.bincount(drawn.ravel(), minlength=rows * len(counts)).reshape(rows, -1).astype(np.float64)
        means[start : start + rows] = (times @ sums) / (times @ counts)[:, None]
    return means
