"""LanceDB: tables of Lance files; writes go through the object store's file layer, not synced."""

from __future__ import annotations

from typing import Any

import numpy as np

from index.drivers.base import LADDER, Driver, Lengthened
from index.worlds import K, Matrix32, Rows


class _Lance(Driver):
    """What both kinds of index have in common."""

    def build(self, vectors: Matrix32) -> None:
        import lancedb

        self._prepare(vectors)
        self.table: Any = lancedb.connect(self.folder).create_table(
            "rows", self._table(np.arange(len(vectors)), vectors)
        )
        self.table.create_scalar_index("id")
        self.table.create_index("vector", config=self._config(len(vectors)))

    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder).open_table("rows")

    def use(self, effort: int) -> None:
        self._effort = effort

    def search(self, queries: Matrix32, k: int) -> Rows:
        asked = self._asked(queries)
        search = self.table.search(asked[0] if len(asked) == 1 else list(asked)).limit(k).select(["id"])
        found = self._with_effort(search).to_arrow()
        rows = np.full((len(queries), k), -1, np.int64)
        ids = found["id"].to_numpy()
        if len(queries) == 1:
            rows[0, : len(ids)] = ids
            return rows
        query = found["query_index"].to_numpy()
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        rows[query, rank] = ids
        return rows

    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(self._table(rows, vectors))

    def delete(self, rows: Rows) -> None:
        self.table.delete(f"id IN ({','.join(map(str, rows.tolist()))})")

    def held(self, rows: Rows) -> int:
        return self.table.count_rows(f"id IN ({','.join(map(str, rows.tolist()))})")

    def settle(self) -> bool:
        self.table.optimize()
        return True

    def close(self) -> None:
        del self.table

    def _table(self, rows: Rows, vectors: Matrix32) -> Any:
        import pyarrow as pa

        stored = self._stored(vectors)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), stored.shape[1])
        return pa.table({"id": pa.array(rows), "vector": lists})

    def _prepare(self, vectors: Matrix32) -> None:
        return None

    def _stored(self, vectors: Matrix32) -> Matrix32:
        return vectors

    def _asked(self, queries: Matrix32) -> Matrix32:
        return queries

    def _config(self, rows: int) -> Any:
        raise NotImplementedError

    def _with_effort(self, search: Any) -> Any:
        raise NotImplementedError


class LanceIvf(_Lance):
    """IVF_FLAT with sqrt(N) lists."""

    efforts = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

    def _config(self, rows: int) -> Any:
        from lancedb.index import IvfFlat

        return IvfFlat(distance_type="dot", num_partitions=int(rows**0.5))

    def _with_effort(self, search: Any) -> Any:
        return search.nprobes(self._effort)


class LanceHnsw(_Lance):
    """IVF_HNSW_SQ with its defaults; `ef` is the effort, twice k candidates are re-ranked."""

    # LanceDB refuses an `ef` below the candidates it is to return.
    efforts = tuple(effort for effort in LADDER if effort >= 2 * K)

    def _prepare(self, vectors: Matrix32) -> None:
        self._lengthened = Lengthened(vectors)

    def _stored(self, vectors: Matrix32) -> Matrix32:
        return self._lengthened.stored(vectors)

    def _asked(self, queries: Matrix32) -> Matrix32:
        return self._lengthened.asked(queries)

    def _config(self, rows: int) -> Any:
        from lancedb.index import HnswSq

        return HnswSq(distance_type="dot")

    def _with_effort(self, search: Any) -> Any:
        return search.ef(self._effort).refine_factor(2)
