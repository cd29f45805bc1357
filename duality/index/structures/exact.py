"""The exact kind: no structure at all. Cost: O(N D) per query; the choice up to some 100,000 vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np

from duality.index.structures.base import Arrays, Packed, Setting, Streamed, Structure
from duality.index.structures.candidates import Candidates
from duality.index.structures.checks import keys_in, matrix_in, refusing
from duality.index.structures.labels import Labels
from duality.index.structures.matrix import Keys, Matrix, Matrix32, in_blocks
from duality.index.structures.plan import Plan
from duality.index.structures.results import Found
from duality.index.structures.scanning import scan


class Exact(Structure):
    """Scores every vector."""

    kind = "exact"

    @classmethod
    def build(cls, settings: Setting, keys: Keys, vectors: Matrix32) -> Self:
        """Over `vectors`, which stay where they are."""
        return cls(Matrix(vectors), Labels(keys), {**settings, "built": len(keys)})

    def pack(self) -> Packed:
        labels = self.labels.by_position
        # Without removed rows nothing needs to be listed: 80 MB at ten million.
        pristine = not self.labels.dead and not len(self.matrix.added)
        order = None if pristine else np.flatnonzero(labels >= 0)
        keys = labels.copy() if order is None else labels[order]

        def blocks() -> Iterator[Matrix32]:
            return in_blocks(self.matrix.base) if order is None else self.matrix.blocks(order)

        matrix = Streamed((self.count, self.dim), np.dtype(np.float32), blocks)
        return dict(self.settings), {"matrix": matrix, "keys": keys}

    @classmethod
    def unpack(cls, settings: Setting, arrays: Arrays) -> Self:
        with refusing(cls.kind):
            keys = keys_in(arrays)
            return cls(Matrix(matrix_in(arrays, len(keys))), Labels(keys), settings)

    def _append(self, keys: Keys, vectors: Matrix32) -> None:
        self.labels.append(keys)
        self.matrix.append(vectors)

    def _erase(self, positions: Keys) -> None:
        """Nothing to do: scans look at the labels."""

    def _find(self, queries: Matrix32, k: int, setting: Setting | None) -> Found:
        return scan(self.matrix, self.labels, queries, k)

    def _find_among(
        self, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
    ) -> Found:
        return self._scan_candidates(queries, k, candidates)

    def _plan(
        self, k: int, matches: int | None, queries: Matrix32 | None, candidates: Candidates | None
    ) -> Plan:
        return self._plan_scan(matches, 1 if queries is None else len(queries), candidates)
