"""hnswlib and usearch: graphs in memory, which keep nothing by themselves; `build` saves a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from index.drivers.base import Driver, Lengthened
from index.worlds import Matrix32, Rows


def unknown_length(dim: int) -> Lengthened:
    """For reading only: queries do not depend on M."""
    return Lengthened(np.empty((0, dim), np.float32))


class Hnswlib(Driver):
    """M 16, ef_construction 200, as its examples have it."""

    def build(self, vectors: Matrix32) -> None:
        import hnswlib

        self._lengthened = Lengthened(vectors)
        self.index: Any = hnswlib.Index("ip", self.dim + 1)
        self.index.init_index(2 * len(vectors), M=16, ef_construction=200)
        self.index.set_num_threads(self.threads)
        self.upsert(np.arange(len(vectors)), vectors)
        self.index.save_index(str(self.folder / "index.bin"))

    def open(self) -> None:
        import hnswlib

        self._lengthened = unknown_length(self.dim)
        self.index = hnswlib.Index("ip", self.dim + 1)
        self.index.load_index(str(self.folder / "index.bin"))

    def use(self, effort: int) -> None:
        self.index.set_ef(effort)

    def search(self, queries: Matrix32, k: int) -> Rows:
        return self.index.knn_query(self._lengthened.asked(queries), k)[0].astype(np.int64)

    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        self.index.add_items(self._lengthened.stored(vectors), rows)

    def delete(self, rows: Rows) -> None:
        for row in rows.tolist():
            self.index.mark_deleted(row)

    def held(self, rows: Rows) -> int:
        return len(set(rows.tolist()) & set(self.index.get_ids_list()))

    def close(self) -> None:
        del self.index


class Usearch(Driver):
    """Its defaults: connectivity 16, expansion_add 128."""

    def build(self, vectors: Matrix32) -> None:
        self._lengthened = Lengthened(vectors)
        self._start()
        self.index.add(np.arange(len(vectors)), self._lengthened.stored(vectors), threads=self.threads)
        self.index.save(str(self.folder / "index.bin"))

    def open(self) -> None:
        self._lengthened = unknown_length(self.dim)
        self._start()
        self.index.load(str(self.folder / "index.bin"))

    def use(self, effort: int) -> None:
        self.index.expansion_search = effort

    def search(self, queries: Matrix32, k: int) -> Rows:
        found = self.index.search(self._lengthened.asked(queries), k, threads=self.threads)
        keys = np.asarray(found.keys, np.uint64).astype(np.int64)
        return keys.reshape(len(queries), -1)

    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        known = self.index.contains(rows)
        if known.any():
            self.index.remove(rows[known], threads=self.threads)
        self.index.add(rows, self._lengthened.stored(vectors), threads=self.threads)

    def delete(self, rows: Rows) -> None:
        self.index.remove(rows, threads=self.threads)

    def held(self, rows: Rows) -> int:
        return int(self.index.contains(rows).sum())

    def close(self) -> None:
        del self.index

    def _start(self) -> None:
        from usearch.index import Index

        self.index: Any = Index(ndim=self.dim + 1, metric="ip", dtype="f32")
