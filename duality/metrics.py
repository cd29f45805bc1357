"""Ranking metrics of one hidden target per query, as arrays over queries.

Everything is computed from two numbers per query: the target's rank (1 = best) and how
many candidates competed, the target included.

| Name       | Value of one query                                                           |
|------------|------------------------------------------------------------------------------|
| `ndcg@k`   | 1 / log2(rank + 1) if rank <= k, else 0 (one relevant target: ideal gain 1)   |
| `recall@k` | 1 if rank <= k, else 0                                                        |
| `mrr@k`    | 1 / rank if rank <= k, else 0                                                 |
| `auc`      | share of the other candidates that the target beats                          |
| `lift@p%`  | 1 / (top / candidates) if rank <= top, else 0; top = ceil(p% of candidates)   |

The mean over queries is the metric. A random ranking has `auc` 0.5 and `lift` 1.
Ties are the caller's business: a rank that counts ties against the target makes every
metric here count them against it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from duality.errors import InputError, suggestion

Array = np.ndarray

_CUT = re.compile(r"(ndcg|recall|mrr)@([1-9][0-9]*)")
_LIFT = re.compile(r"lift@([0-9]+(?:\.[0-9]+)?)%")


@dataclass(frozen=True)
class Metric:
    """A parsed metric name: its kind, and its cutoff (k, percent for `lift`, None for `auc`)."""

    name: str
    kind: str
    cutoff: float | None


def parse_metric(name: str) -> Metric:
    """Read a metric name such as `ndcg@10`, `auc` or `lift@1%`.

    Raises:
        InputError: no such metric, or a cutoff out of range.
    """
    if name == "auc":
        return Metric(name, "auc", None)
    if match := _CUT.fullmatch(name):
        return Metric(name, match[1], int(match[2]))
    if (match := _LIFT.fullmatch(name)) and 0 < float(match[1]) <= 100:
        return Metric(name, "lift", float(match[1]))
    near = suggestion(name, ["ndcg@10", "recall@10", "recall@100", "mrr@10", "auc", "lift@1%"])
    raise InputError(f"unknown metric '{name}'{near}: write ndcg@K, recall@K, mrr@K, auc or lift@P%")


def ndcg(ranks: Array, k: int) -> Array:
    """Discounted gain of the target: float64 [Q] from ranks int64 [Q]."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def recall(ranks: Array, k: int) -> Array:
    """Whether the target is among the first k: float64 [Q] of 0 and 1 from ranks int64 [Q]."""
    return (ranks <= k).astype(np.float64)


def mrr(ranks: Array, k: int) -> Array:
    """Reciprocal rank, 0 beyond k: float64 [Q] from ranks int64 [Q]."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def auc(ranks: Array, candidates: Array) -> Array:
    """Share of the other candidates that rank below the target: float64 [Q].

    A query without other candidates counts as 1: nothing beat the target.
    """
    others = candidates - 1
    return np.where(others > 0, (candidates - ranks) / np.maximum(others, 1), 1.0)


def lift(ranks: Array, candidates: Array, percent: float) -> Array:
    """How much more often than by chance the target is in the top `percent`: float64 [Q].

    The top is rounded up to a whole number of candidates, and chance with it, so that a
    random ranking has an expected lift of exactly 1 whatever the number of candidates.
    """
    # 1e-9 keeps 1% of 100 candidates at 1, not at 2 through 1.0000000000000002.
    top = np.ceil(candidates * (percent / 100.0) - 1e-9)
    return np.where(ranks <= top, candidates / np.maximum(top, 1.0), 0.0)


def per_query(metric: Metric | str, ranks: Array, candidates: Array) -> Array:
    """Values of one metric.

    Args:
        metric: a metric or its name.
        ranks: int64 [Q], 1 = best.
        candidates: int64 [Q], how many competed, the target included.

    Returns:
        float64 [Q].

    Raises:
        InputError: unknown metric name.
        ValueError: shapes differ or a rank lies outside 1..candidates.
    """
    metric = parse_metric(metric) if isinstance(metric, str) else metric
    ranks, candidates = np.asarray(ranks, dtype=np.int64), np.asarray(candidates, dtype=np.int64)
    if ranks.shape != candidates.shape or np.any(ranks < 1) or np.any(ranks > candidates):
        raise ValueError("ranks must lie between 1 and candidates, one of each per query")
    if metric.kind == "auc":
        return auc(ranks, candidates)
    assert metric.cutoff is not None
    if metric.kind == "lift":
        return lift(ranks, candidates, metric.cutoff)
    return {"ndcg": ndcg, "recall": recall, "mrr": mrr}[metric.kind](ranks, int(metric.cutoff))
