"""One evaluation: scorers, queries and candidates in; numbers with intervals out.

All scorers meet the same queries, the same candidates and the same bootstrap draws, so the
comparisons are paired.

Shapes: Q queries, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from duality import metrics
from duality.errors import InputError
from duality.evaluation.intervals import Intervals, cluster_bootstrap, paired_difference
from duality.evaluation.queries import USER_TO_ITEM, Queries, World, check_direction
from duality.evaluation.ranking import (
    Candidates,
    Scorer,
    parse_candidates,
    rank_full,
    rank_sampled,
    sample_negatives,
)
from duality.runtime import progress

WEIGHTS = {
    "leave-one-out": "trained on every event not hidden, also on events later than a query's moment",
    "temporal": "trained on events before the first cut only",
}
HIDDEN = {
    "leave-one-out": "the last event of each user",
    "temporal": "the first event of each user after a point in time",
}


def evaluate(
    scorers: Sequence[Scorer],
    queries: Queries,
    world: World,
    direction: str,
    *,
    candidates: str = "full",
    ks: Sequence[int] = (5, 10, 20),
    seed: int = 0,
    protocol: str = "leave-one-out",
    split: str = "test",
) -> dict[str, Any]:
    """Measure the first scorer and compare it with the rest.

    Args:
        scorers: the system under test, then baselines; names differ.
        queries: from `make_queries`.
        world: what may be known.
        direction: user-to-item or item-to-user.
        candidates: `full`, `uniform:N` or `popularity:N`.
        ks: cutoffs of ndcg, recall and mrr; recall@100 and auc come on top.
        seed: of sampled candidates and of the bootstrap.
        protocol, split: what was hidden, for the description.

    Returns:
        `protocol` (a description in words and counts), `candidates`, `queries`, `metrics`
        {name: {value, low, high}}, `baselines` {scorer: metrics}, `comparisons`
        {scorer: {name: {difference, low, high}}}, the first scorer minus each other. `low`
        and `high` are None when all queries share one cluster.

    Raises:
        InputError: unknown direction or candidates, or no query is left.
        DualityError: a scorer returned NaN.
        ValueError: no scorer, or two of one name.
    """
    check_direction(direction)
    who = parse_candidates(candidates)
    if not scorers or len({scorer.name for scorer in scorers}) < len(scorers):
        raise ValueError("evaluate needs at least one scorer, each with its own name")
    if len(queries) == 0:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in queries.dropped.items())
        raise InputError(f"nothing to evaluate {direction}: no query left ({reasons or 'no hidden event'})")
    names = metric_names(ks)
    values = _measure(scorers, queries, world, direction, who, names, seed)
    clusters = queries.sources(direction)
    tables = {
        name: _table(names, cluster_bootstrap(table, clusters, seed=seed)) for name, table in values.items()
    }
    first, *rest = [scorer.name for scorer in scorers]
    return {
        "protocol": describe(queries, direction, who, protocol, split, seed),
        "candidates": str(who),
        "queries": len(queries),
        "metrics": tables[first],
        "baselines": {name: tables[name] for name in rest},
        "comparisons": {
            name: _table(
                names, paired_difference(values[first], values[name], clusters, seed=seed), "difference"
            )
            for name in rest
        },
    }


def metric_names(ks: Sequence[int]) -> list[str]:
    """Names reported for the cutoffs, each once."""
    names = [f"{kind}@{k}" for kind in ("ndcg", "recall", "mrr") for k in ks]
    return list(dict.fromkeys([*names, "recall@100", "auc"]))


def _measure(
    scorers: Sequence[Scorer],
    queries: Queries,
    world: World,
    direction: str,
    who: Candidates,
    names: Sequence[str],
    seed: int,
) -> dict[str, np.ndarray]:
    """Per-query values of every scorer: {name: float64 [Q, M]}."""
    negatives = None if who.kind == "full" else sample_negatives(queries, world, direction, who, seed=seed)
    values = {}
    with progress(len(scorers), f"evaluating {direction}", unit="scorers") as bar:
        for scorer in scorers:
            if negatives is None:
                ranks, competing = rank_full(scorer, queries, world, direction)
            else:
                ranks, competing = rank_sampled(scorer, queries, world, direction, negatives)
            values[scorer.name] = np.stack([metrics.per_query(n, ranks, competing) for n in names], axis=1)
            bar.advance()
    return values


def _table(
    names: Sequence[str], intervals: Intervals, value: str = "value"
) -> dict[str, dict[str, float | None]]:
    return {
        name: {
            value: float(intervals.value[column]),
            "low": _finite(intervals.low[column]),
            "high": _finite(intervals.high[column]),
        }
        for column, name in enumerate(names)
    }


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def describe(
    queries: Queries, direction: str, who: Candidates, protocol: str, split: str, seed: int
) -> dict[str, Any]:
    """What was done, in words and counts, so that two results can be told apart."""
    asked, source = ("items", "user") if direction == USER_TO_ITEM else ("users", "item")
    drawn = (
        "" if who.kind == "full" else f", {who.n} drawn without replacement ({who.kind}), the target added"
    )
    return {
        "name": protocol,
        "split": split,
        "direction": direction,
        "hidden": HIDDEN.get(protocol, protocol),
        "weights": WEIGHTS.get(protocol, "unknown"),
        "candidates": f"all {asked} not visibly seen with the query's {source}{drawn}",
        "ties": "count against the target",
        "intervals": f"95% percentile bootstrap over {source}s, 1000 resamples",
        "seed": seed,
        "dropped": dict(queries.dropped),
        "notes": dict(queries.notes),
    }
