"""How wide a search of a graph must be (`ef_search`), measured at the build.

Shapes: S sample queries, N vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from duality.index.structures.checks import integer_in
from duality.index.structures.curves import curve_in
from duality.index.structures.matrix import Matrix32
from duality.index.structures.results import Found
from duality.index.structures.scanning import nearest

LADDER = (32, 64, 128, 256, 512, 1_024, 2_048)
RANKS = (10, 100)
# Of the families of reach.py: means of two vectors are harder than any query should be.
WANTED = (0.98, 0.95, 0.98)
MAX_EF = 1 << 20
TUNED_K = 10
MOST_HELD = 1_000


class Width:
    """`ef_search` by rank.

    Args:
        settings: `reach` (points of rank and ef), and `search` with `ef_search` and the `k` it was
            measured for.

    Raises:
        ValueError: a setting is missing or out of range.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._curve = curve_in(settings, "reach", float(MAX_EF))
        search = settings.get("search") or {}
        self.tuned_k, self._factor = TUNED_K, 1.0
        if search.get("ef_search"):
            self.tuned_k = integer_in({"k": TUNED_K, **search}, "k", 1, 1 << 30)
            self._factor = integer_in(search, "ef_search", 1, MAX_EF) / float(self._curve.at(self.tuned_k))

        # Reading the curve takes a fifth of a small search; ranks that filters ask for are of any size.
        self._by_rank: dict[int, int] = {}

    def ef(self, rank: int) -> int:
        """Candidates to keep while searching for the nearest `rank`."""
        held = self._by_rank.get(rank)
        if held is None:
            width = float(self._curve.at(max(rank, self.tuned_k))) * self._factor
            held = min(max(round(width), rank), max(MAX_EF, rank))
            if len(self._by_rank) < MOST_HELD:
                self._by_rank[rank] = held
        return held


def measure_widths(
    search: Callable[[Matrix32, int, int], Found],
    vectors: Matrix32,
    queries: Sequence[Matrix32],
    least: int,
) -> list[list[float]]:
    """Points of the curve.

    Args:
        search: best positions of queries, given k and ef.
        vectors: float32 [N, D], N >= 1.
        queries: families of queries, float32 [S, D] each.
        least: no point lies below.
    """
    ranks = [rank for rank in RANKS if 4 * rank <= len(vectors)] or [max(1, len(vectors) // 4)]
    truths = [nearest(family, vectors, ranks[-1])[1] for family in queries]
    points: list[list[float]] = []
    width = 0
    for rank in ranks:
        for width in (step for step in LADDER if step >= max(width, rank)):
            recalls = [
                _recall(search(family, rank, width)[1], truth[:, :rank])
                for family, truth in zip(queries, truths)
            ]
            if all(recall >= wanted for recall, wanted in zip(recalls, WANTED)):
                break
        points.append([float(rank), float(max(width, least))])
    # Beyond what was measured, as many more candidates as results.
    last, ef = points[-1]
    return [*points, [last * MAX_EF / ef, float(MAX_EF)]]


def _recall(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
