"""Filtered search of a graph, and what it is going to do, in words.

The graph is searched without the filter for as many more results as matches are rarer, and the
results are filtered: what is left is right whatever the filter. A query with too few left has rare
matches near it, where a graph would wander; it scans all matches instead. Vectors that were removed
but are still in the graph are filtered out in the same way.

Shapes: Q queries, k results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duality.index.structures import costs
from duality.index.structures.base import Setting
from duality.index.structures.candidates import Candidates
from duality.index.structures.matrix import Matrix32
from duality.index.structures.plan import Plan
from duality.index.structures.results import Found
from duality.index.structures.sampling import evenly

if TYPE_CHECKING:
    from duality.index.structures.hnsw import Hnsw

# More results are fetched than the depth of the matches asks for.
SPARE = 10


def find_among(
    structure: Hnsw, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
) -> Found:
    """Best k positions among candidates. 1 <= k <= len(candidates)."""
    least = np.full(len(queries), k)
    if scanning_pays(structure, least, len(candidates), candidates.uses, setting).all():
        return structure._scan_candidates(queries, k, candidates)
    fetch = fetched(structure, structure.depths(queries, k, candidates))
    short = scanning_pays(structure, fetch, len(candidates), candidates.uses, setting)
    scores = np.empty((len(queries), k), np.float32)
    positions = np.empty((len(queries), k), np.int64)
    rest = np.flatnonzero(~short)
    if len(rest):
        most = int(fetch[rest].max())
        scores[rest], positions[rest] = _filtered(structure, queries[rest], k, most, candidates, setting)
        short[rest] = positions[rest, -1] < 0
    if short.any():
        scores[short], positions[short] = structure._scan_candidates(queries[short], k, candidates)
    return scores, positions


def fetched(structure: Hnsw, depths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Results to fetch without the filter, int64 [Q]."""
    return np.minimum(np.ceil(depths) + SPARE, len(structure.matrix)).astype(np.int64)


def scanning_pays(
    structure: Hnsw, fetch: NDArray[np.int64], matches: int, uses: int, setting: Setting | None = None
) -> NDArray[np.bool_]:
    """bool [Q]: who had better score every match."""
    distinct, which = np.unique(fetch, return_inverse=True)
    widths = np.array([structure.ef(number, setting) for number in distinct.tolist()])
    graph = costs.graph(1, structure.settings["m"], structure.dim) * widths[which]
    scan, copy = costs.score(matches, structure.dim), costs.gather(matches, structure.dim) / uses
    scanned = graph > scan
    return scanned & (graph.sum() > copy + np.where(scanned, scan, graph).sum())


def plan_graph(
    structure: Hnsw, k: int, matches: int | None, queries: Matrix32 | None, candidates: Candidates | None
) -> Plan:
    """As `Structure.plan`."""
    if matches is None:
        ef = structure.ef(k)
        return Plan(
            "graph", f"no filter: the graph keeps the best {ef:,} while it searches", ef, {"ef_search": ef}
        )
    number = 1 if queries is None else max(len(queries), 1)
    if not matches:
        return structure._plan_scan(matches, number, candidates)
    k = min(k, matches)
    depth = np.full(number, evenly(k, matches, len(structure.matrix)))
    if queries is not None and candidates is not None and len(queries):
        depth = structure.depths(queries, k, candidates)
    fetch = fetched(structure, depth)
    scanned = scanning_pays(structure, fetch, matches, candidates.uses if candidates else 1)
    if scanned.all():
        return structure._plan_scan(matches, number, candidates)
    most = int(fetch[~scanned].max())
    ef = structure.ef(most)
    reason = (
        f"{matches:,} of {structure.count:,} vectors match: the graph finds {most:,}, which are then filtered"
    )
    if scanned.any():
        reason += f"; {scanned.sum():,} of {number:,} queries have few matches near them and scan them all"
    return Plan("graph", reason, ef, {"ef_search": ef})


def _filtered(
    structure: Hnsw, queries: Matrix32, k: int, fetch: int, candidates: Candidates, setting: Setting | None
) -> Found:
    found = structure.search_graph(queries, fetch, structure.ef(fetch, setting))
    scores, positions = structure.longer.merge(structure.matrix, queries, found, fetch)
    passed = (positions >= 0) & candidates.mask[np.maximum(positions, 0)]
    order = np.argsort(~passed, axis=1, kind="stable")[:, :k]
    positions = np.take_along_axis(np.where(passed, positions, -1), order, 1)
    return np.take_along_axis(scores, order, 1), positions
