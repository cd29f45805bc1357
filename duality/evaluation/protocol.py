"""One evaluation: scorers, queries and candidates in; numbers with intervals out.

All scorers meet the same queries, the same candidates and the same bootstrap draws, so the
comparisons are paired.

Shapes: Q queries, M metrics, P pools of candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from duality import metrics
from duality.errors import InputError
from duality.evaluation.intervals import cluster_bootstrap, paired_difference
from duality.evaluation.pools import MATCHED, TIME_MATCHED, Pool, pools_for
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, Queries, World, check_direction
from duality.evaluation.ranking import (
    Candidates,
    Scorer,
    count_candidates,
    parse_candidates,
    rank_pools,
    rank_sampled,
    sample_negatives,
)
from duality.evaluation.sampled import corrected

WEIGHTS = {
    "leave-one-out": "trained on every event not hidden, also on events later than a query's moment",
    "temporal": "trained on events before the first cut only",
    "cold-item": "trained without any event of the cold items, also on events later than a query's moment",
    "cold-user": "trained without any event of the cold users, also on events later than a query's moment",
}
CUTOFFS = (5, 10, 20)
# Least error on our own full ranks (docs/sampled-metrics.md). It is fitted on all queries together, and
# the others are biased at small N: an interval from a bootstrap would look surer than it is.
ESTIMATOR = "mle"
HIDDEN = {
    "leave-one-out": "the last event of each user",
    "temporal": "the first event of each user after a point in time",
    "cold-item": "all events of a random 20% of the items",
    "cold-user": "all events of a random 20% of the users",
}


@dataclass(frozen=True, eq=False)
class Measured:
    """What every scorer made of the same queries.

    Args:
        queries, direction: what was asked.
        who: full or sampled candidates.
        pools: P rules for candidates; the first is the one of `metrics` in a report.
        names: M metrics.
        ranks: int64 [P, Q] by scorer, 1 = best.
        competing: int64 [P, Q], candidates, the target included.
        full: int64 [Q], candidates there would be without sampling; None for full ranking.
    """

    queries: Queries
    direction: str
    who: Candidates
    pools: Sequence[Pool]
    names: Sequence[str]
    ranks: dict[str, np.ndarray]
    competing: np.ndarray
    full: np.ndarray | None = None

    @property
    def clusters(self) -> np.ndarray:
        """int [Q], what intervals resample: users for user-to-item, items for item-to-user."""
        return self.queries.sources(self.direction)

    def values(self, scorer: str, pool: int = 0) -> np.ndarray:
        """float64 [Q, M]."""
        ranks, competing = self.ranks[scorer][pool], self.competing[pool]
        return np.stack([metrics.per_query(name, ranks, competing) for name in self.names], axis=1)


def measure(
    scorers: Sequence[Scorer],
    queries: Queries,
    world: World,
    direction: str,
    *,
    candidates: str = "full",
    ks: Sequence[int] | None = None,
    seed: int = 0,
    matched: int = MATCHED,
    seen: sparse.csr_matrix | None = None,
) -> Measured:
    """Rank the target of every query with every scorer; arguments as for `evaluate`.

    Args:
        seen: bool [sources, targets], pairs that do not compete; by default the visible ones.
    """
    check_direction(direction)
    who = parse_candidates(candidates)
    if not scorers or len({scorer.name for scorer in scorers}) < len(scorers):
        raise ValueError("evaluate needs at least one scorer, each with its own name")
    if len(queries) == 0:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in queries.dropped.items())
        raise InputError(f"nothing to evaluate {direction}: no query left ({reasons or 'no hidden event'})")
    asked = cutoffs(ks, world.num_targets(direction))
    pools = pools_for(queries, world, direction, matched=matched)
    if who.kind != "full":
        pools = pools[:1]
    ranks, competing = _ranks(scorers, queries, world, direction, who, pools, seed, seen)
    uniform = who.kind == "uniform"
    full = count_candidates(queries, world, direction, pools[0], seen) if uniform else None
    return Measured(queries, direction, who, pools, metric_names(asked, direction), ranks, competing, full)


def evaluate(
    scorers: Sequence[Scorer],
    queries: Queries,
    world: World,
    direction: str,
    *,
    candidates: str = "full",
    ks: Sequence[int] | None = None,
    seed: int = 0,
    protocol: str = "leave-one-out",
    split: str = "test",
    matched: int = MATCHED,
) -> dict[str, Any]:
    """Measure the first scorer and compare it with the rest.

    Args:
        scorers: the system under test, then baselines; names differ.
        queries: from `make_queries`.
        world: what may be known.
        direction: user-to-item or item-to-user.
        candidates: `full`, `uniform:N` or `popularity:N`.
        ks: cutoffs of ndcg, recall and mrr, by default 5, 10 and 20; recall@100 and auc come on top, and lift for users.
        seed: of sampled candidates and of the bootstrap.
        protocol, split: what was hidden, for the description.
        matched: users in the time-matched pool of item-to-user queries.

    Returns:
        `protocol` (a description in words and counts), `candidates`, `queries`, `metrics`
        {name: {value, low, high}}, `baselines` {scorer: metrics}, `comparisons`
        {scorer: {name: {difference, low, high}}}, the first scorer minus each other; and for
        item-to-user with times `time_matched` with the same three over time-matched users. `low`
        and `high` are None when all queries share one cluster.

    Raises:
        InputError: unknown direction or candidates, no query is left, or a cutoff beyond the side.
        DualityError: a scorer returned NaN.
        ValueError: no scorer, or two of one name.
    """
    measured = measure(
        scorers, queries, world, direction, candidates=candidates, ks=ks, seed=seed, matched=matched
    )
    return report(measured, protocol=protocol, split=split, seed=seed)


def report(measured: Measured, *, protocol: str, split: str, seed: int) -> dict[str, Any]:
    """Tables with intervals of what was measured; see `evaluate`."""
    part = {
        "protocol": describe(measured, protocol, split, seed),
        "candidates": str(measured.who),
        "queries": len(measured.queries),
        **_tables(measured, 0, seed),
    }
    if measured.full is not None:
        part["corrected"] = {"estimator": ESTIMATOR, **_corrected(measured)}
    for number, pool in enumerate(measured.pools[1:], start=1):
        part[pool.name.replace("-", "_")] = {
            "candidates": pool.words,
            "median_candidates": float(np.median(measured.competing[number])),
            **_tables(measured, number, seed),
        }
    return part


def _corrected(measured: Measured) -> dict[str, Any]:
    """What full ranking would give, estimated from sampled ranks: `metrics` and `baselines`, no intervals."""
    assert measured.full is not None
    # A query whose candidates were all drawn needs no correction.
    drawn = np.maximum(measured.competing[0] - 1, 1)
    full = np.maximum(measured.full, 2)
    tables: dict[str, dict[str, dict[str, float | None]]] = {}
    for scorer, ranks in measured.ranks.items():
        sampled = np.minimum(ranks[0], drawn + 1)
        tables[scorer] = {
            name: {
                "value": float(corrected(name, sampled, drawn, full, estimator=ESTIMATOR).mean()),
                "low": None,
                "high": None,
            }
            for name in measured.names
        }
    first, *rest = tables
    return {"metrics": tables[first], "baselines": {name: tables[name] for name in rest}}


def cutoffs(ks: Sequence[int] | None, targets: int) -> Sequence[int]:
    """The cutoffs asked for, or those of 5, 10 and 20 that a side of `targets` rows has.

    Raises:
        InputError: a cutoff is larger than the side.
    """
    if ks is None:
        return [k for k in CUTOFFS if k <= targets] or [targets]
    if ks and max(ks) > targets:
        raise InputError(
            f"k = {max(ks)} is more than the {targets} candidates there are: give smaller cutoffs"
        )
    return ks


def metric_names(ks: Sequence[int], direction: str = USER_TO_ITEM) -> list[str]:
    """Names reported for the cutoffs, each once."""
    names = [f"{kind}@{k}" for kind in ("ndcg", "recall", "mrr") for k in ks]
    lifts = [f"lift@{percent}%" for percent in (1, 5, 10)] if direction == ITEM_TO_USER else []
    return list(dict.fromkeys([*names, "recall@100", "auc", *lifts]))


def _ranks(
    scorers: Sequence[Scorer],
    queries: Queries,
    world: World,
    direction: str,
    who: Candidates,
    pools: Sequence[Pool],
    seed: int,
    seen: sparse.csr_matrix | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    names = [scorer.name for scorer in scorers]
    if who.kind == "full":
        ranks, competing = rank_pools(scorers, queries, world, direction, pools, seen=seen)
        return dict(zip(names, ranks, strict=True)), competing
    negatives = sample_negatives(queries, world, direction, who, seed=seed)
    found = [rank_sampled(scorer, queries, world, direction, negatives) for scorer in scorers]
    return {name: ranks[None] for name, (ranks, _) in zip(names, found, strict=True)}, found[0][1][None]


def _tables(measured: Measured, pool: int, seed: int) -> dict[str, Any]:
    """`metrics`, `baselines` and `comparisons` over one pool."""
    first, *rest = measured.ranks
    values = {name: measured.values(name, pool) for name in measured.ranks}
    clusters, names = measured.clusters, measured.names
    tables = {
        name: cluster_bootstrap(table, clusters, seed=seed).table(names) for name, table in values.items()
    }
    compared = {name: paired_difference(values[first], values[name], clusters, seed=seed) for name in rest}
    return {
        "metrics": tables[first],
        "baselines": {name: tables[name] for name in rest},
        "comparisons": {name: found.table(names, "difference") for name, found in compared.items()},
    }


def describe(measured: Measured, protocol: str, split: str, seed: int) -> dict[str, Any]:
    """What was done, in words and counts, so that two results can be told apart."""
    queries, direction, who = measured.queries, measured.direction, measured.who
    source = "user" if direction == USER_TO_ITEM else "item"
    drawn = (
        "" if who.kind == "full" else f", {who.n} drawn without replacement ({who.kind}), the target added"
    )
    matched = {pool.name: pool.words for pool in measured.pools if pool.name == TIME_MATCHED}
    return {
        "name": protocol,
        "split": split,
        "direction": direction,
        "hidden": HIDDEN.get(protocol, protocol),
        "weights": WEIGHTS.get(protocol, "unknown"),
        "histories": _histories(queries, direction),
        "candidates": f"{measured.pools[0].words}, without those visibly seen with the query's {source}{drawn}",
        **({"time_matched": matched[TIME_MATCHED]} if matched else {}),
        "ties": "count against the target",
        "intervals": f"95% percentile bootstrap over {source}s, 1000 resamples",
        "seed": seed,
        "dropped": dict(queries.dropped),
        "notes": dict(queries.notes),
    }


def _histories(queries: Queries, direction: str) -> str:
    if direction == USER_TO_ITEM:
        return "the user's visible events; all are before the hidden one"
    if queries.time is None:
        return "all visible events: the log has no time to cut at"
    return "users and items as they were strictly before the query's time"
