"""What a scorer would show: the first k of each source, and how exposure is spread by it.

Cost:   one more scoring of one query per source.
Shapes: Q queries, S sources that ask, B sources of a block, N rows of the asked side, k slots.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.evaluation.exposure import balance_of, concentration, popularity_lift, slots
from duality.evaluation.pools import allowed_rows
from duality.evaluation.protocol import Measured
from duality.evaluation.queries import Queries, World, pair_matrix, seen_csr
from duality.evaluation.ranking import Scorer, blocks


def one_per_source(queries: Queries, direction: str) -> np.ndarray:
    """int64 [S], number of the last query of each source, ascending."""
    sources = queries.sources(direction)
    _, last = np.unique(sources[::-1], return_index=True)
    return np.sort(len(sources) - 1 - last)


def top_lists(scorer: Scorer, measured: Measured, world: World, asked: np.ndarray, k: int) -> np.ndarray:
    """The k best unseen candidates of the queries `asked` (numbers, ascending).

    Args:
        scorer: one of those measured.
        k: slots; a list is shorter where the scorer knows fewer ("cannot say" is not listed).

    Returns:
        int64 [S, k] rows of the asked side, best first, -1 at the end.
    """
    direction, queries = measured.direction, measured.queries
    seen, n = seen_csr(world, direction), world.num_targets(direction)
    k, found = min(k, n), []
    for rows in blocks(len(queries), n):
        inside = asked[(asked >= rows.start) & (asked < rows.stop)]
        if not len(inside):
            continue
        scores = np.array(scorer.score(queries, rows, direction), dtype=np.float64)
        (allowed,) = allowed_rows(measured.pools[:1], rows)
        if allowed is not None:
            scores[~np.broadcast_to(allowed, scores.shape)] = -np.inf
        scores = scores[inside - rows.start]
        pairs = seen[queries.sources(direction)[inside]]
        scores[np.repeat(np.arange(len(scores)), np.diff(pairs.indptr)), pairs.indices] = -np.inf
        found.append(_best(scores, k))
    return np.concatenate(found)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(scores, best, axis=1)
    order = np.lexsort((best, -values), axis=1)
    values, best = (np.take_along_axis(part, order, axis=1) for part in (values, best))
    return np.where(np.isfinite(values), best, -1)


def exposure_of(scorer: Scorer, measured: Measured, world: World, *, k: int = 10) -> dict[str, Any] | None:
    """How a scorer's lists spread exposure over the asked side; see duality.evaluation.exposure.

    Returns:
        `lists`, `k`, `slots`, `coverage`, `gini`, `top_1%_share`, `largest_share`, `popularity_lift`
        (None when nobody has a history) and `spearman` of slots and visible events; None when nothing
        is listed or the log has no visible event.
    """
    direction, queries = measured.direction, measured.queries
    asked = one_per_source(queries, direction)
    lists = top_lists(scorer, measured, world, asked, k)
    taken = slots(lists, world.num_targets(direction))
    known = pair_matrix(world, world.visible, direction)
    given = np.asarray(known.sum(axis=0)).ravel().astype(np.float64)
    if not taken.sum() or not given.sum():
        return None
    lift = popularity_lift(lists, known[queries.sources(direction)[asked]], given)
    return {
        "lists": len(lists),
        "k": k,
        "slots": int(taken.sum()),
        **concentration(taken),
        "popularity_lift": lift if np.isfinite(lift) else None,
        "spearman": balance_of(taken, given)["spearman"],
    }
