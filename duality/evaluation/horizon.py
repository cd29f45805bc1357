"""How well the next h items of a user were predicted, step by step.

Reads:  event arrays, a mask of what is visible, and lists per method from any predictor.
Trades: the future is the user's next *new* items. A repeated item is not a target, because
        what was seen is never proposed; repeats between two new items are skipped.

A list of h items meets a set of h true items, so precision and recall are the same number.

| Name       | Value of one query at horizon h                                             |
|------------|-----------------------------------------------------------------------------|
| `recall@h` | share of the next h items that the list of h holds (= precision)             |
| `ndcg@h`   | gain of the list against that set, binary, ideal: all h found                |
| `exact@h`  | share of places j <= h that hold the very item of step j                     |

Shapes: E events, U users, Q queries, H the longest horizon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duality.errors import InputError
from duality.evaluation.intervals import Intervals, cluster_bootstrap, paired_difference

NAMES = ("recall", "ndcg", "exact")
LEAST_QUERIES = 30  # below this a bootstrap interval says little, and the report says so


@dataclass(frozen=True)
class Futures:
    """What happened next.

    Attributes:
        user: int64 [Q], users with a visible event and a new item after it.
        items: int64 [Q, H], their next new items in order; -1 where there were fewer.
        dropped: why a user gave no query: {reason: users}.
    """

    user: np.ndarray
    items: np.ndarray
    dropped: Mapping[str, int]

    def with_steps(self, h: int) -> np.ndarray:
        """int64, the queries with at least h true steps."""
        return np.flatnonzero(self.items[:, h - 1] >= 0)


def futures(
    event_user: np.ndarray, event_item: np.ndarray, visible: np.ndarray, shape: tuple[int, int], longest: int
) -> Futures:
    """The next new items of every user after what is visible.

    Args:
        event_user, event_item: int [E], each user's events together, oldest first.
        visible: bool [E], the history; of each user it comes before what is hidden.
        shape: users and items.
        longest: H, steps kept.

    Raises:
        ValueError: longest < 1, or a hidden event precedes a visible one of its user.
    """
    if longest < 1:
        raise ValueError("longest must be at least 1")
    user, key = event_user.astype(np.int64), event_user.astype(np.int64) * shape[1] + event_item
    if np.any(visible[1:] & ~visible[:-1] & (user[1:] == user[:-1])):
        raise ValueError("a visible event comes after a hidden one of its user")
    first = np.zeros(len(key), dtype=bool)
    first[np.unique(key, return_index=True)[1]] = True
    has_past = np.bincount(user[visible], minlength=shape[0]) > 0
    new = np.flatnonzero(first & ~visible)
    has_future = np.bincount(user[new], minlength=shape[0]) > 0
    new = new[has_past[user[new]]]
    place = np.arange(len(new)) - np.searchsorted(user[new], user[new], side="left")
    asked = np.flatnonzero(has_past & has_future)
    items = np.full((len(asked), longest), -1, dtype=np.int64)
    kept = place < longest
    items[np.searchsorted(asked, user[new[kept]]), place[kept]] = event_item[new[kept]]
    dropped = {
        "no event before the cut": int((has_future & ~has_past).sum()),
        "no new item after the cut": int((has_past & ~has_future).sum()),
    }
    return Futures(asked, items, {reason: count for reason, count in dropped.items() if count})


def last_new_items(
    event_user: np.ndarray, event_item: np.ndarray, shape: tuple[int, int], longest: int
) -> np.ndarray:
    """Visible part when each user's last `longest` new items are hidden: bool [E].

    Everything from the first hidden event on is hidden, repeats included. Users with no more
    than `longest` different items keep all their events.
    """
    key = event_user.astype(np.int64) * shape[1] + event_item
    new = np.sort(np.unique(key, return_index=True)[1])
    counts = np.bincount(event_user[new], minlength=shape[0])
    ends = np.cumsum(counts)
    cut = np.full(shape[0], len(key), dtype=np.int64)
    enough = counts > longest
    cut[enough] = new[ends[enough] - longest]
    return np.arange(len(key)) < cut[event_user]


def hits(lists: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each place of the lists got right.

    Args:
        lists: int64 [Q, h], predicted items; -1 pads.
        truth: int64 [Q, h], the next h items in order, none missing.

    Returns:
        float64 [Q, h] twice: the item is among the next h; it is the item of this very step.

    Raises:
        ValueError: shapes differ, or a true item is missing.
    """
    if lists.shape != truth.shape or np.any(truth < 0):
        raise ValueError("lists and truth must both be [Q, h], with every true step present")
    among = (lists[:, :, None] == truth[:, None, :]).any(axis=2)
    return among.astype(np.float64), (lists == truth).astype(np.float64)


def quality(lists: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Values of `NAMES` per query, float64 [Q, 3]; arguments as `hits`."""
    among, exact = hits(lists, truth)
    gain = 1.0 / np.log2(np.arange(2, lists.shape[1] + 2))
    return np.stack([among.mean(1), among @ gain / gain.sum(), exact.mean(1)], axis=1)


def compare(
    lists: Mapping[str, Mapping[int, np.ndarray]], found: Futures, steps: Sequence[int], *, seed: int = 0
) -> dict[str, Any]:
    """Every method against the first one, at every horizon.

    Args:
        lists: {method: {h: int64 [Q, h]}}; the first method is what the others are compared to.
        found: what really happened.
        steps: horizons.
        seed: of the bootstrap, whose clusters are users.

    Returns:
        {h: {`queries`, `metrics` {method: {name: {value, low, high}}}, `comparisons` {method:
        {name: {difference, low, high, shown}}}, `per_step` {method: {`among`, `exact`: h numbers}},
        `warning` if there are few queries}}. `shown`: the interval of the difference excludes 0.

    Raises:
        InputError: nobody has as many true steps as a horizon asks.
    """
    return {str(h): _at_horizon({m: by[h] for m, by in lists.items()}, found, h, seed) for h in steps}


def _at_horizon(lists: Mapping[str, np.ndarray], found: Futures, h: int, seed: int) -> dict[str, Any]:
    asked = found.with_steps(h)
    if not len(asked):
        raise InputError(f"nobody has {h} new items after the cut: ask for fewer --steps")
    truth, users = found.items[asked, :h], found.user[asked]
    names = [f"{name}@{h}" for name in NAMES]
    values = {method: quality(part[asked], truth) for method, part in lists.items()}
    first, *rest = values
    few = {"warning": f"only {len(asked)} queries"} if len(asked) < LEAST_QUERIES else {}
    return {
        "queries": len(asked),
        **few,
        "metrics": {m: _table(names, cluster_bootstrap(v, users, seed=seed)) for m, v in values.items()},
        "comparisons": {
            m: _differences(names, paired_difference(values[m], values[first], users, seed=seed))
            for m in rest
        },
        "per_step": {m: _steps(part[asked], truth) for m, part in lists.items()},
    }


def _steps(lists: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    among, exact = hits(lists, truth)
    return {"among": among.mean(0).round(6).tolist(), "exact": exact.mean(0).round(6).tolist()}


def _table(names: Sequence[str], spread: Intervals, value: str = "value") -> dict[str, dict[str, Any]]:
    return {
        name: {
            value: float(spread.value[n]),
            "low": _finite(spread.low[n]),
            "high": _finite(spread.high[n]),
        }
        for n, name in enumerate(names)
    }


def _differences(names: Sequence[str], spread: Intervals) -> dict[str, dict[str, Any]]:
    table = _table(names, spread, "difference")
    for n, name in enumerate(names):
        table[name]["shown"] = bool(spread.low[n] > 0 or spread.high[n] < 0)
    return table


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
