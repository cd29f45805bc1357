"""Vectors by position: a base that is only read (often mapped from a file) and what was added since.

Cost:  opening costs nothing; adding copies what is added, amortised.

Shapes: P positions, D dimensions, Q queries, R rows of a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss

Keys = NDArray[np.int64]
Matrix32 = NDArray[np.float32]

BLOCK_ROWS = 65_536


class Growing:
    """An array that grows at its end, amortised.

    Args:
        start: its first values, copied.
    """

    def __init__(self, start: NDArray[Any]) -> None:
        self._room, self._used = np.array(start), len(start)

    def __len__(self) -> int:
        return self._used

    @property
    def view(self) -> NDArray[Any]:
        """All values; a view that later growth may leave behind."""
        return self._room[: self._used]

    def append(self, values: NDArray[Any]) -> None:
        """Add `values` at the end."""
        needed = self._used + len(values)
        if needed > len(self._room):
            room = np.empty((max(needed, 2 * len(self._room), 256), *self._room.shape[1:]), self._room.dtype)
            room[: self._used] = self.view
            self._room = room
        self._room[self._used : needed] = values
        self._used = needed


class Matrix:
    """Rows [P, D] by position; positions are never reused.

    Args:
        base: float32 [B, D], C order; never written to.
    """

    def __init__(self, base: Matrix32) -> None:
        # A plain view: every slice of an np.memmap would otherwise pay for its subclass.
        self.base: Matrix32 = np.asarray(base)
        self._added = Growing(np.empty((0, base.shape[1]), np.float32))

    def __len__(self) -> int:
        return len(self.base) + len(self._added)

    @property
    def added(self) -> Matrix32:
        """float32 [P - B, D], the rows of positions B and above; a view."""
        return self._added.view

    def append(self, vectors: Matrix32) -> None:
        """Give the next positions to `vectors` [N, D]."""
        self._added.append(vectors)

    def rows(self, positions: Keys) -> Matrix32:
        """float32 copy [N, D] of the rows at `positions` [N], all of them valid."""
        if not len(self._added):
            return self.base.take(positions, axis=0)
        rows = np.empty((len(positions), self.base.shape[1]), np.float32)
        inside = positions < len(self.base)
        rows[inside] = self.base[positions[inside]]
        rows[~inside] = self.added[positions[~inside] - len(self.base)]
        return rows

    def products(self, queries: Matrix32, positions: Keys) -> Matrix32:
        """Inner products of each query with its rows, read in place.

        Args:
            queries: float32 [Q, D].
            positions: int64 [Q, R], C order; -1 for none.

        Returns:
            float32 [Q, R]; of -1, any number or -inf.
        """
        if len(queries) == 1:
            # Waking the threads of FAISS takes longer than the products of one query.
            return (self.rows(np.maximum(positions[0], 0)) @ queries[0])[None]
        base = len(self.base)
        if not len(self._added):
            return _products_of(queries, self.base, positions)
        first = _products_of(queries, self.base, np.where(positions < base, positions, -1))
        return np.maximum(first, _products_of(queries, self.added, positions - base), out=first)

    def blocks(self, positions: Keys | None = None) -> Iterator[Matrix32]:
        """The rows at `positions`, or all of them in order, some thousand at a time."""
        if positions is None:
            yield from in_blocks(self.base)
            yield from in_blocks(self.added)
            return
        for part in in_blocks(positions):
            yield self.rows(part)


def in_blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of some thousand rows each."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]


def _products_of(queries: Matrix32, rows: Matrix32, positions: Keys) -> Matrix32:
    """float32 [Q, R], -inf where a position is negative."""
    products, pointer = np.full(positions.shape, -np.inf, np.float32), faiss().swig_ptr
    queries = np.ascontiguousarray(queries)
    faiss().fvec_inner_products_by_idx(
        pointer(products), pointer(queries), pointer(rows), pointer(positions),
        rows.shape[1], len(queries), positions.shape[1],
    )  # fmt: skip
    return products
