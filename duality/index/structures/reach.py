"""How far a search must reach, measured at the build: the share of lists that hold the nearest r.

The nearest r vectors of a query lie in its nearest lists; how many of them depends on the data and
on r. A filter that lets one vector in ten through makes the ten nearest matches the hundred nearest
vectors, so the same curve answers for filters and for long result lists.

Stored vectors stand in for queries, and means of two stored vectors, which lie between groups and
are harder; queries of the kind that will be asked, where the caller has some, count as well: users
that ask items may lie where no item is.

Shapes: N vectors, S sample queries, L lists, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.coarse import Coarse
from duality.index.structures.matrix import Matrix32
from duality.index.structures.scanning import nearest

RANKS = (10, 100, 1_000)
# Share of the nearest that must lie in the lists probed; the searches themselves lose no more.
WANTED = 0.975


def measure_reach(
    coarse: Coarse, vectors: Matrix32, groups: NDArray[np.int32], queries: Sequence[Matrix32]
) -> list[list[float]]:
    """Points of the curve for vectors [N, D] in their groups [N].

    Args:
        coarse: the lists.
        vectors: float32 [N, D].
        groups: int32 [N].
        queries: families of queries, float32 [S, D] each; the worst family counts.
    """
    count, nlist = len(vectors), len(coarse)
    if nlist == 1:
        return [[1.0, 1.0]]
    ranks = [rank for rank in RANKS if rank * 4 <= count] or [max(1, count // 4)]
    needed = np.max([_needed(coarse, vectors, groups, family, ranks) for family in queries], axis=0)
    shares = np.maximum.accumulate(np.minimum(needed / nlist, 1.0))
    points = [[float(rank), float(share)] for rank, share in zip(ranks, shares)]
    return [*points, [float(count), 1.0]]


def stand_ins(vectors: Matrix32, queries: Matrix32 | None = None, seed: int = 1) -> list[Matrix32]:
    """Families of sample queries: stored vectors, means of two, and `queries` [S, D] if there are any."""
    if not len(vectors):
        return []
    given = [] if queries is None or not len(queries) else [np.ascontiguousarray(queries, np.float32)]
    rng, number = np.random.default_rng(seed), 64 if len(vectors) <= 1_000_000 else 32
    rows = rng.integers(0, len(vectors), (3, number))
    first, second, third = (np.ascontiguousarray(vectors[np.sort(part)]) for part in rows)
    return [first, 0.5 * (second + rng.permutation(third)), *given]


def _needed(
    coarse: Coarse, vectors: Matrix32, groups: NDArray[np.int32], queries: Matrix32, ranks: list[int]
) -> list[int]:
    """Lists that must be probed so that the share WANTED of the nearest is met, for each rank."""
    _, found = nearest(queries, vectors, ranks[-1])
    order = coarse.rank_lists(queries, len(coarse))
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(len(coarse))[None, :], axis=1)
    places = np.take_along_axis(place, groups[found].astype(np.int64), axis=1)
    return [_quantile(places[:, :rank]) + 1 for rank in ranks]


def _quantile(places: NDArray[np.int64]) -> int:
    values = np.sort(places, axis=None)
    return int(values[min(len(values) - 1, math.ceil(WANTED * len(values)) - 1)])
