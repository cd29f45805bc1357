"""Synthetic vectors in the stored form, exact answers, and the files an index is built from.

Shapes: N items, Q queries, D dimensions, k results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Matrix32 = NDArray[np.float32]
Rows = NDArray[np.int64]

K = 10
_CLUSTERS = 1_000


@dataclass
class World:
    """Items [e, 1, b] and queries [u, -log Z, 1], float32 [N, D] and [Q, D], b the bias of an item."""

    items: Matrix32
    queries: Matrix32
    _truth: dict[int, Rows] = field(default_factory=dict)

    def truth(self, k: int = K) -> Rows:
        """Row numbers of the k best items per query, int64 [Q, k]; computed once."""
        if k not in self._truth:
            self._truth[k] = best_rows(self.items, self.queries, k)
        return self._truth[k]


class Source:
    """Draws vectors of one distribution; another seed is another space.

    Args:
        name: "clustered" (1,000 Gaussian clusters) or "decaying" (a decaying spectrum, no clusters).
        dim: D.
        seed: of centres and spectrum.
    """

    def __init__(self, name: str, dim: int, seed: int = 0) -> None:
        self.name, self.dim = name, dim
        generator = np.random.default_rng([seed, 7])
        inner = dim - 2
        self._centres = generator.normal(size=(_CLUSTERS, inner)) / np.sqrt(inner)
        spectrum = np.arange(1, inner + 1) ** -0.5
        rotation, _ = np.linalg.qr(generator.normal(size=(inner, inner)))
        self._mixing = (spectrum[:, None] * rotation / np.linalg.norm(spectrum)).astype(np.float32)

    def items(self, rows: int, seed: int) -> Matrix32:
        """float32 [rows, D]."""
        generator = np.random.default_rng([seed, 1])
        vectors = np.empty((rows, self.dim), np.float32)
        vectors[:, :-2] = self._inner(generator, rows)
        vectors[:, -2] = 1.0
        vectors[:, -1] = generator.normal(scale=0.05, size=rows)
        return vectors

    def queries(self, rows: int, seed: int) -> Matrix32:
        """float32 [rows, D]."""
        generator = np.random.default_rng([seed, 2])
        vectors = np.empty((rows, self.dim), np.float32)
        vectors[:, :-2] = self._inner(generator, rows)
        vectors[:, -2] = generator.normal(loc=-1.0, scale=0.1, size=rows)
        vectors[:, -1] = 1.0
        return vectors

    def _inner(self, generator: np.random.Generator, rows: int) -> Matrix32:
        noise = generator.standard_normal((rows, self.dim - 2), np.float32)
        if self.name == "decaying":
            return noise @ self._mixing
        noise *= np.float32(0.5 / np.sqrt(self.dim - 2))
        noise += self._centres.astype(np.float32)[generator.integers(0, _CLUSTERS, rows)]
        return noise


def world(name: str, rows: int, dim: int, queries: int = 512) -> World:
    """A world of `rows` items; the same arguments give the same world."""
    source = Source(name, dim)
    return World(source.items(rows, 1), source.queries(queries, 1))


def best_rows(items: Matrix32, queries: Matrix32, k: int) -> Rows:
    """The exact answer, int64 [Q, k]."""
    import faiss

    return faiss.knn(queries, items, k, metric=faiss.METRIC_INNER_PRODUCT)[1]


def recall(found: Any, truth: Rows) -> float:
    """Share of the true neighbours that were found; `found` row numbers or ids of `names_of` [Q, k]."""
    rows = rows_of(found) if np.asarray(found).dtype == object else np.asarray(found)
    hits = [len(np.intersect1d(row, true)) for row, true in zip(rows, truth)]
    return float(np.sum(hits) / truth.size)


def names_of(rows: Rows) -> list[str]:
    """External ids of row numbers."""
    return [f"i{row:08d}" for row in rows.tolist()]


def rows_of(ids: NDArray[np.object_]) -> Rows:
    """Row numbers of external ids, -1 for None."""
    flat = [-1 if id is None else int(id[1:]) for id in ids.ravel()]
    return np.array(flat, np.int64).reshape(ids.shape)


def table(vectors: Matrix32, attributes: dict[str, Any] | None = None) -> pa.Table:
    """Vectors in the embed format, ids by `names_of`."""
    import pyarrow as pa

    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    ids = names_of(np.arange(len(vectors)))
    return pa.table({"id": ids, "vector": lists, **(attributes or {})})


def built(folder: Path, world: World, spec: Any, attributes: dict[str, Any] | None = None) -> Path:
    """An index of the world's items in `folder`; its users are sixteen of the queries."""
    from duality.index.pair import build

    build(folder, table(world.queries[:16]), table(world.items, attributes), spec=spec)
    return folder
