"""Vectors longer than the longest at the build: lists and graphs that were made for one length miss them.

They are few, or the structure is stale; they are scored by hand and merged in.

Shapes: Q queries, k results, P positions.
"""

from __future__ import annotations

import numpy as np

from duality.index.structures.matrix import Keys, Matrix, Matrix32
from duality.index.structures.results import Found, merged
from duality.index.structures.scanning import nearest

# More than this share of the live vectors, and some, make a structure stale.
SHARE, SOME = 0.05, 50


class Longer:
    """Positions of such vectors.

    Args:
        positions: int64, ascending.
        radius: length of the longest vector at the build.
    """

    def __init__(self, positions: Keys, radius: float) -> None:
        self.positions, self._radius = positions, radius

    def saw(self, start: int, vectors: Matrix32) -> None:
        """Take note of vectors [N, D] added at the positions `start` and on."""
        squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
        longer = start + np.flatnonzero(squares > self._radius**2)
        if len(longer):
            self.positions = np.concatenate([self.positions, longer])

    def forget(self, positions: Keys) -> None:
        """Positions that were removed."""
        if len(self.positions):
            self.positions = np.setdiff1d(self.positions, positions)

    def places(self, order: Keys) -> Keys:
        """Where they come in `order`, for packing."""
        return np.flatnonzero(np.isin(order, self.positions))

    def stale(self, count: int) -> str | None:
        """Why the structure should be built anew; `count` is how many vectors are live."""
        if len(self.positions) > SHARE * count + SOME:
            return f"{len(self.positions):,} vectors are longer than the longest at the build"
        return None

    def merge(
        self, matrix: Matrix, queries: Matrix32, found: Found, k: int, allowed: np.ndarray | None = None
    ) -> Found:
        """Results with these vectors, scored by hand.

        Args:
            matrix: all vectors.
            queries: float32 [Q, D].
            found: what the structure found.
            k: results wanted.
            allowed: bool [P], which positions may be returned; None for all.
        """
        mine = self.positions
        if allowed is not None and len(mine):
            inside = mine < len(allowed)
            mine = mine[inside][allowed[mine[inside]]]
        if not len(mine):
            return found
        scores, positions = found
        positions = np.where(np.isin(positions, mine), -1, positions)
        by_hand, rows = nearest(queries, matrix.rows(mine), min(k, len(mine)))
        return merged((scores, positions), (by_hand, np.where(rows >= 0, mine[rows], -1)), k)
