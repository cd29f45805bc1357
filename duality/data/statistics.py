"""What a dataset looks like: history lengths, popularity, ties, gaps, events per month.

Shapes: U users, I items, E events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.data.dataset import Dataset

_QUANTILES = {
    "min": 0.0,
    "p10": 0.1,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p99": 0.99,
    "max": 1.0,
}
_USERS_AT_ONCE = 1 << 14
_EVENTS_AT_ONCE = 1 << 22


def describe(dataset: Dataset) -> dict[str, Any]:
    """The document of `duality data describe`: the manifest's facts and `statistics`.

    Statistics of a log without time leave out ties, gaps and months. Gaps are in seconds.
    """
    skipped = ("format", "checksums")
    facts = {key: value for key, value in dataset.manifest.items() if key not in skipped}
    user_lengths, item_lengths = np.diff(dataset.user_indptr), np.diff(dataset.item_indptr)
    statistics: dict[str, Any] = {
        "events_per_user": quantiles(user_lengths) | {"histogram": doubling_histogram(user_lengths)},
        "events_per_item": quantiles(item_lengths) | {"histogram": doubling_histogram(item_lengths)},
        "density": dataset.num_events / (dataset.num_users * dataset.num_items),
        "repeats_share": 1.0 - distinct_pairs(dataset) / dataset.num_events,
        "item_gini": gini(item_lengths),
        "user_gini": gini(user_lengths),
        "top_1_percent_items_share": top_share(item_lengths, 0.01),
    }
    if dataset.event_time is not None:
        statistics |= _time_statistics(dataset, dataset.event_time)
    return {"dataset": str(dataset.path), **facts, "statistics": statistics}


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Quantiles and mean of numbers [N]; empty for N = 0."""
    if not len(values):
        return {}
    found = np.quantile(values, list(_QUANTILES.values()))
    return {**dict(zip(_QUANTILES, found.tolist())), "mean": float(np.mean(values))}


def doubling_histogram(values: np.ndarray) -> list[dict[str, int]]:
    """Counts of positive integers [N] in the ranges 1, 2-3, 4-7, 8-15, ..."""
    powers = np.floor(np.log2(values)).astype(np.int64)
    counts = np.bincount(powers)
    return [{"from": 1 << p, "to": (2 << p) - 1, "count": int(count)} for p, count in enumerate(counts)]


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts [N]: 0 all equal, near 1 all in one."""
    ordered = np.sort(counts).astype(np.float64)
    ranks = np.arange(1, len(ordered) + 1)
    return float(2 * (ranks @ ordered) / (len(ordered) * ordered.sum()) - (len(ordered) + 1) / len(ordered))


def top_share(counts: np.ndarray, share: float) -> float:
    """Share of the total that belongs to the largest `share` of counts [N], at least one of them."""
    top = max(round(len(counts) * share), 1)
    return float(np.sort(counts)[-top:].sum() / counts.sum())


def distinct_pairs(dataset: Dataset) -> int:
    """Number of different (user, item) pairs."""
    pairs = 0
    for first in range(0, dataset.num_users, _USERS_AT_ONCE):
        last = min(first + _USERS_AT_ONCE, dataset.num_users)
        block = slice(int(dataset.user_indptr[first]), int(dataset.user_indptr[last]))
        keys = dataset.event_user[block].astype(np.int64) * dataset.num_items + dataset.event_item[block]
        pairs += len(np.unique(keys))
    return pairs


def _time_statistics(dataset: Dataset, event_time: np.ndarray) -> dict[str, Any]:
    gaps = np.diff(event_time)[np.diff(dataset.event_user) == 0]
    tied_before = np.zeros(dataset.num_events + 1, dtype=bool)
    tied_before[1:-1] = (np.diff(dataset.event_user) == 0) & (np.diff(event_time) == 0)
    months: dict[str, int] = {}
    for start in range(0, dataset.num_events, _EVENTS_AT_ONCE):
        block = event_time[start : start + _EVENTS_AT_ONCE].astype("datetime64[us]").astype("datetime64[M]")
        names, counts = np.unique(block, return_counts=True)
        for name, count in zip(names.astype(str).tolist(), counts.tolist()):
            months[name] = months.get(name, 0) + count
    return {
        "tied_time_share": float(np.mean(tied_before[1:] | tied_before[:-1])),
        "gap_seconds": quantiles(gaps / 1e6),
        "events_per_month": dict(sorted(months.items())),
    }
