"""milvus-lite: Milvus' interface over FAISS in one process, through pymilvus."""

from __future__ import annotations

from typing import Any

import numpy as np

from index.drivers.base import Driver, Lengthened
from index.worlds import Matrix32, Rows

_PART, _NAME = 5_000, "rows"


class _Milvus(Driver):
    """What both kinds of index have in common; `extra` is 1 for graphs, which want the extra dimension."""

    extra = 0

    def build(self, vectors: Matrix32) -> None:
        from pymilvus import DataType, MilvusClient

        self._lengthened = Lengthened(vectors)
        self._connect()
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim + self.extra)
        index = self.client.prepare_index_params()
        index.add_index("vector", metric_type="IP", **self._index(len(vectors)))
        self.client.create_collection(_NAME, schema=schema, index_params=index, consistency_level="Strong")
        for start in range(0, len(vectors), _PART):
            part = vectors[start : start + _PART]
            self.upsert(np.arange(start, start + len(part)), part)
        self.client.flush(_NAME)
        self._reload(vectors[:1])

    def open(self) -> None:
        self._connect()
        self.client.load_collection(_NAME)

    def use(self, effort: int) -> None:
        self._effort = effort

    def search(self, queries: Matrix32, k: int) -> Rows:
        asked = self._lengthened.asked(queries) if self.extra else queries
        found = self.client.search(
            _NAME, asked.tolist(), limit=k, search_params={"params": self._parameters()}
        )
        rows = np.full((len(queries), k), -1, np.int64)
        for number, hits in enumerate(found):
            rows[number, : len(hits)] = [hit["id"] for hit in hits]
        return rows

    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        stored = self._lengthened.stored(vectors) if self.extra else vectors
        data = [{"id": row, "vector": vector} for row, vector in zip(rows.tolist(), stored)]
        self.client.upsert(_NAME, data)

    def delete(self, rows: Rows) -> None:
        self.client.delete(_NAME, ids=rows.tolist())

    def held(self, rows: Rows) -> int:
        return len(self.client.get(_NAME, ids=rows.tolist(), output_fields=["id"]))

    def settle(self) -> bool:
        self.client.flush(_NAME)
        self.client.compact(_NAME)
        self._reload(np.zeros((1, self.dim), np.float32))
        return True

    def close(self) -> None:
        self.client.close()

    def _reload(self, query: Matrix32) -> None:
        """Segments get their index when they are loaded, not when they are flushed; the first search waits."""
        self.client.release_collection(_NAME)
        self.client.load_collection(_NAME)
        self.search(query, 1)

    def _connect(self) -> None:
        from pymilvus import MilvusClient

        self._effort = 64
        self.client: Any = MilvusClient(str(self.folder / "rows.db"))

    def _index(self, rows: int) -> dict[str, Any]:
        raise NotImplementedError

    def _parameters(self) -> dict[str, int]:
        raise NotImplementedError


class MilvusIvf(_Milvus):
    """IVF_FLAT with 4 sqrt(N) lists, as Milvus recommends."""

    efforts = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)

    def _index(self, rows: int) -> dict[str, Any]:
        return {"index_type": "IVF_FLAT", "params": {"nlist": int(4 * rows**0.5)}}

    def _parameters(self) -> dict[str, int]:
        return {"nprobe": self._effort}


class MilvusHnsw(_Milvus):
    """M 16, efConstruction 200."""

    extra = 1

    def _index(self, rows: int) -> dict[str, Any]:
        return {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}

    def _parameters(self) -> dict[str, int]:
        return {"ef": self._effort}
