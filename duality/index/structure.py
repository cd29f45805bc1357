"""What every search structure over the vectors of one side shares: labels, filters, exact scans.

A structure is derived data: it can be rebuilt from the record store at any time. All kinds
(ann.py) give true inner products as scores, higher is better.

Notation: N vectors, Q queries, k results, D dimensions; key: the record store's integer;
position: where FAISS holds a vector. `labels[position]` is its key, -1 when removed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss

Keys = NDArray[np.int64]
Matrix = NDArray[np.float32]
Found = tuple[Matrix, Keys]


class Structure(ABC):
    """What all kinds share: labels, filters, exact scans.

    Args:
        index: the FAISS index.
        labels: int64 [positions].
        settings: the spec's options plus what the build chose (`nlist`, `radius`, `built`).
    """

    # Up to this share of live vectors a filtered search scans the matches instead.
    scan_share = 0.3

    def __init__(self, index: Any, labels: Keys, settings: Mapping[str, Any]) -> None:
        self.index, self.labels, self.settings = index, labels, dict(settings)
        live = np.flatnonzero(labels >= 0)
        self.count = len(live)
        self._table = np.full(int(labels.max(initial=-1)) + 1, -1, np.int64)
        self._table[labels[live]] = live

    @property
    @abstractmethod
    def dim(self) -> int:
        """D."""

    @property
    @abstractmethod
    def stale(self) -> bool:
        """Whether so much has changed since the build that rebuilding pays."""

    @abstractmethod
    def _append(self, vectors: Matrix) -> None:
        """Give the next positions to `vectors` [N, D]."""

    @abstractmethod
    def _erase(self, positions: Keys) -> None:
        """Forget live positions; must leave labels and table right."""

    @abstractmethod
    def _at(self, positions: Keys) -> Matrix:
        """Vectors [P, D] at positions."""

    @abstractmethod
    def _find(self, queries: Matrix, k: int, mask: NDArray[np.bool_] | None) -> Found:
        """Scores and positions [Q, k] among positions where mask is true; -1 pads."""

    def keys(self) -> Keys:
        """All live keys, ascending."""
        return np.sort(self.labels[self.labels >= 0])

    def vectors_of(self, keys: Keys) -> Matrix:
        """float32 [N, D] of stored keys.

        Raises:
            KeyError: a key is not held.
        """
        positions = self._positions(keys)
        if (positions < 0).any():
            raise KeyError(int(keys[positions < 0][0]))
        return self._at(positions)

    def remove(self, keys: Keys) -> None:
        """Forget keys; unknown ones are ignored."""
        positions = self._positions(keys)
        positions = np.unique(positions[positions >= 0])
        if len(positions):
            self._erase(positions)
            self.count -= len(positions)

    def add(self, keys: Keys, vectors: Matrix) -> None:
        """Store vectors under keys, replacing what the keys held.

        Args:
            keys: int64 [N], no repeats.
            vectors: float32 [N, D], finite.
        """
        if not len(keys):
            return
        self.remove(keys)
        start = len(self.labels)
        self._append(np.ascontiguousarray(vectors, np.float32))
        self.labels = np.concatenate([self.labels, keys])
        missing = int(keys.max()) + 1 - len(self._table)
        if missing > 0:
            self._table = np.concatenate([self._table, np.full(missing, -1, np.int64)])
        self._table[keys] = np.arange(start, start + len(keys))
        self.count += len(keys)

    def search(self, queries: Matrix, k: int, allowed: Keys | None = None, exact: bool = False) -> Found:
        """Best k keys per query.

        Args:
            queries: float32 [Q, D].
            k: how many; less when fewer are live and allowed.
            allowed: keys to choose from; None for all.
            exact: score every candidate instead of using the structure.

        Returns:
            Scores float32 [Q, k'] and keys int64 [Q, k'], best first, k' = min(k, candidates).
            An approximate search may find fewer: key -1, score -inf.
        """
        positions = None if allowed is None else self._positions(allowed)
        if positions is not None:
            positions = positions[positions >= 0]
        candidates = self.count if positions is None else len(positions)
        k = min(k, candidates)
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        filtered_small = positions is not None and candidates <= self.scan_share * self.count
        if exact or filtered_small:
            return self._named(*self._scan(queries, k, positions))
        return self._named(*self._find(queries, k, self._mask(positions)))

    def _scan(self, queries: Matrix, k: int, positions: Keys | None) -> Found:
        where = np.flatnonzero(self.labels >= 0) if positions is None else positions
        vectors = np.ascontiguousarray(self._at(where))
        module = faiss()
        scores, found = module.knn(queries, vectors, k, metric=module.METRIC_INNER_PRODUCT)
        return scores, where[found]

    def _mask(self, positions: Keys | None) -> NDArray[np.bool_] | None:
        if positions is None:
            return None if self.count == len(self.labels) else self.labels >= 0
        mask = np.zeros(len(self.labels), np.bool_)
        mask[positions] = True
        return mask

    def _positions(self, keys: Keys) -> Keys:
        known = (keys >= 0) & (keys < len(self._table))
        return (
            np.where(known, self._table[np.where(known, keys, 0)], -1) if len(self._table) else keys * 0 - 1
        )

    def _named(self, scores: Matrix, positions: Keys) -> Found:
        found = positions >= 0
        keys = np.where(found, self.labels[positions], -1)
        scores = np.where(found, scores, -np.inf).astype(np.float32)
        # Equal scores are ordered by key, so that answers do not depend on the structure.
        order = np.lexsort((keys, -scores), axis=-1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(keys, order, 1)

    def _bury(self, positions: Keys) -> None:
        self._table[self.labels[positions]] = -1
        self.labels = self.labels.copy() if not self.labels.flags.writeable else self.labels
        self.labels[positions] = -1
