"""95% intervals by resampling clusters of queries.

Queries that share a source are not independent: one easy item with a thousand hidden users
is one piece of evidence, not a thousand. So whole clusters are drawn with replacement
(users for user-to-item, items for item-to-user) and the metric is the mean over the drawn
queries. All columns share the same draws, so a column of differences gives the paired
interval of two scorers on the same queries.

How often each of C clusters is drawn in C draws is a multinomial count. Drawing C cluster
numbers and counting them costs a random access per draw; here each cluster gets a Poisson
count instead, from a table of 65,536 steps that stays in cache, and the draws still missing
are made one by one. The result has the multinomial distribution exactly (see `DrawCounts`).

Cost:   `resamples` x C counts, about 5 ns each and column-blocks of M; memory is a few
        arrays of [Q, M] and one [C] per thread, never [resamples, C].
Shapes: Q queries, M columns (metrics), C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson

from duality.runtime import num_threads

_STEPS = 1 << 16
# BLAS splits a dot product of more than 10,000 values over its threads, and the order of
# summation with it: shorter ones give the same bits on any number of threads.
_DOT = 8192
_WORTH_THREADS = 50_000


@dataclass(frozen=True)
class Intervals:
    """Means and their percentile intervals, float64 [M] each; NaN bounds when C < 2."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def table(self, names: Sequence[str], value: str = "value") -> dict[str, dict[str, float | None]]:
        """{name: {value, low, high}} of the M columns; None for a bound that is not known."""
        return {
            name: {
                value: float(self.value[column]),
                "low": _known(self.low[column]),
                "high": _known(self.high[column]),
            }
            for column, name in enumerate(names)
        }


def _known(number: float) -> float | None:
    # Resampled sums cancel to a hair beside zero.
    return (0.0 if abs(number) < 1e-12 else float(number)) if math.isfinite(number) else None


class DrawCounts:
    """How often each of `clusters` clusters comes up in as many draws with replacement.

    Independent Poisson counts with a rate slightly below 1 have a total T. Given T they are
    multinomial(T), whatever T is; so refusing T > `clusters` leaves them multinomial, and
    `clusters` - T further single draws make them multinomial(`clusters`). With a rate of
    1 - 4/sqrt(clusters) about one replicate in 30,000 is refused.

    Poisson counts come by inversion. 16 random bits pick a cell of width 2^-16; where the
    distribution function jumps inside the cell (about 9 cells), more bits decide. Nothing is
    rounded to 16 bits.
    """

    def __init__(self, clusters: int) -> None:
        self.clusters = clusters
        rate = max(0.0, 1.0 - 4.0 / np.sqrt(clusters))
        self.jumps = poisson.cdf(np.arange(40), rate)
        edges = np.arange(_STEPS + 1) / _STEPS
        lowest = np.searchsorted(self.jumps, edges[:-1], side="right")
        highest = np.searchsorted(self.jumps, edges[1:], side="left")
        self.table = np.where(lowest == highest, lowest, -1).astype(np.float64)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Counts, float64 [C] of whole numbers that add up to C."""
        counts = self._poisson(random)
        while (missing := self.clusters - int(counts.sum())) < 0:
            counts = self._poisson(random)
        np.add.at(counts, random.integers(0, self.clusters, size=missing), 1.0)
        return counts

    def _poisson(self, random: np.random.Generator) -> np.ndarray:
        words = random.integers(0, 1 << 64, size=-(-self.clusters // 4), dtype=np.uint64)
        cells = words.view(np.uint16)[: self.clusters]
        counts = np.empty(self.clusters)
        for start in range(0, self.clusters, _STEPS):  # pieces whose indices stay in cache: 2x faster
            piece = slice(start, start + _STEPS)
            # "clip" only skips a bounds check and a copy: every cell is in the table.
            self.table.take(cells[piece], out=counts[piece], mode="clip")
        open_ = np.flatnonzero(counts < 0)
        if len(open_):
            place = (cells[open_] + random.random(len(open_))) / _STEPS
            counts[open_] = np.searchsorted(self.jumps, place, side="right")
        return counts


def cluster_bootstrap(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Intervals:
    """Mean over queries with a percentile bootstrap interval over clusters.

    Args:
        values: float [Q, M], a column per metric or difference; Q >= 1.
        clusters: int [Q], any labels.
        resamples: bootstrap samples.
        level: share of resamples inside the interval.
        seed: same seed, same interval, on any number of threads.

    Returns:
        Intervals of M columns. With a single cluster nothing is known about the spread:
        the bounds are NaN.

    Raises:
        ValueError: no query, shapes differ, or a value is not finite.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3; Field &
    Welsh, Bootstrapping clustered data, 2007 (whole clusters).
    """
    means = resampled_means(values, clusters, resamples=resamples, seed=seed)
    return percentile_interval(np.asarray(values, dtype=np.float64).mean(axis=0), means, level=level)


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


def percentile_interval(value: np.ndarray, means: np.ndarray, *, level: float = 0.95) -> Intervals:
    """Bounds that leave out (1 - level) / 2 of the resampled means [R, M] on either side."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return Intervals(value, low, high)


def resampled_means(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """The metric of each bootstrap sample: arguments and errors as `cluster_bootstrap`.

    Returns:
        float64 [R, M]; a row is one drawing of the clusters, the same for all columns. NaN
        when there is a single cluster.
    """
    values = np.asarray(values, dtype=np.float64)
    sums, counts = cluster_sums(values, clusters)
    if len(counts) < 2:
        return np.full((resamples, values.shape[1]), np.nan)
    mean = values.mean(axis=0)
    # Deviations from the mean: what is added up over replicates is then the spread itself,
    # and no digit is lost to a large common part.
    sums -= mean * counts[:, None]
    deviations, queries = _resampled_totals(np.column_stack((sums, counts)), resamples, seed)
    return mean + deviations / queries


def cluster_sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of each cluster float64 [C, M] and its queries float64 [C], clusters in order.

    Raises:
        ValueError: no query, shapes differ, or a value is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0 or len(values) != len(clusters):
        raise ValueError("values must be [Q, M] with Q >= 1 and one cluster per query")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite: a query without a value would shrink the average unseen")
    labels = np.unique(clusters, return_inverse=True)[1]
    counts = np.bincount(labels).astype(np.float64)
    sums = np.empty((len(counts), values.shape[1]))
    for column in range(values.shape[1]):
        sums[:, column] = np.bincount(labels, weights=values[:, column])
    return sums, counts


def _resampled_totals(columns: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Totals over drawn clusters of columns [C, M + 1]: float64 [R, M], and the last one [R, 1]."""
    drawn, blocks = DrawCounts(len(columns)), _in_blocks(columns)

    def totals(replicate: int) -> np.ndarray:
        random = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, replicate])))
        return _weighted_totals(blocks, drawn.draw(random))

    found = np.stack(list(_each(totals, resamples, parallel=len(columns) >= _WORTH_THREADS)))
    return found[:, :-1], found[:, -1:]


def _in_blocks(columns: np.ndarray) -> np.ndarray:
    """[C, M] as [blocks, M, 1, width], zeros at the end."""
    clusters, width = len(columns), min(_DOT, len(columns))
    blocks = np.zeros((-(-clusters // width), columns.shape[1], 1, width))
    for number, block in enumerate(blocks):
        part = columns[number * width : (number + 1) * width]
        block[:, 0, : len(part)] = part.T
    return blocks


def _weighted_totals(blocks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over clusters of weight times column: float64 [M] from _in_blocks and [C]."""
    number, _, _, width = blocks.shape
    whole = len(weights) // width
    full = np.matmul(blocks[:whole], weights[: whole * width].reshape(whole, 1, width, 1))
    total = full[:, :, 0, 0].sum(axis=0)
    if whole < number:
        rest = weights[whole * width :]
        total += np.matmul(blocks[-1, :, :, : len(rest)], rest[:, None])[:, 0, 0]
    return total


def _each(totals: Callable[[int], np.ndarray], resamples: int, *, parallel: bool) -> Iterable[np.ndarray]:
    if not parallel or num_threads() == 1:
        return map(totals, range(resamples))
    with ThreadPoolExecutor(num_threads()) as threads:
        return list(threads.map(totals, range(resamples)))
