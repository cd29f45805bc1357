"""How many vectors a compressed kind reads from the matrix per result, measured at the build.

Shapes: S sample queries, N vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from duality.index.structures.checks import integer_in
from duality.index.structures.matrix import Keys, Matrix32
from duality.index.structures.scanning import nearest

if TYPE_CHECKING:
    from duality.index.structures.ivf import Ivf

RERANK = (4, 8, 16, 32, 64)
# Recall that compression may cost on top of what the lists cost.
LOST = 0.003
K = 10


def rerank_in(settings: Mapping[str, Any]) -> int:
    """The tuned or else the measured number of a structure's settings.

    Raises:
        ValueError: out of range.
    """
    search = settings.get("search") or {}
    return integer_in(search if search.get("rerank") else settings, "rerank", 1, 1_000)


def measure_rerank(structure: Ivf, queries: Sequence[Matrix32]) -> int:
    """The smallest step that loses next to nothing against the largest.

    Args:
        structure: freshly built; its matrix is all base.
        queries: families of queries, float32 [S, D] each; the worst family counts.
    """
    k = min(K, structure.count)
    truths = [nearest(family, structure.matrix.base, k)[1] for family in queries]
    recalls = [
        [_recall(structure, family, truth, step) for family, truth in zip(queries, truths)] for step in RERANK
    ]
    for step, measured in zip(RERANK, recalls):
        if all(value >= best - LOST for value, best in zip(measured, recalls[-1])):
            return step
    return RERANK[-1]


def _recall(structure: Ivf, queries: Matrix32, truth: Keys, step: int) -> float:
    found = structure._find(queries, truth.shape[1], {"rerank": step})[1]
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
