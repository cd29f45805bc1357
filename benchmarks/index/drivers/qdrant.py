"""Qdrant Edge: Qdrant's engine inside the process, with its write-ahead log."""

from __future__ import annotations

from typing import Any

import numpy as np

from index.drivers.base import Driver, Lengthened
from index.worlds import Matrix32, Rows

_PART = 5_000


class QdrantEdge(Driver):
    """m 16, ef_construct 100, its defaults; `optimize()` builds the graph."""

    def build(self, vectors: Matrix32) -> None:
        import qdrant_edge as edge

        self._lengthened = Lengthened(vectors)
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=self.dim + 1, distance=edge.Distance.Dot),
            hnsw_config=edge.HnswIndexConfig(
                m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=self.threads
            ),
            max_search_threads=self.threads,
        )
        (self.folder / "shard").mkdir()
        self.shard: Any = edge.EdgeShard.create(str(self.folder / "shard"), config)
        for start in range(0, len(vectors), _PART):
            part = vectors[start : start + _PART]
            self.upsert(np.arange(start, start + len(part)), part)
        self.shard.optimize()
        self.shard.flush()

    def open(self) -> None:
        import qdrant_edge as edge

        self.shard = edge.EdgeShard.load(str(self.folder / "shard"))

    def use(self, effort: int) -> None:
        import qdrant_edge as edge

        self._parameters = edge.SearchParams(hnsw_ef=effort)

    def search(self, queries: Matrix32, k: int) -> Rows:
        import qdrant_edge as edge

        requests = [
            edge.QueryRequest(limit=k, query=edge.Query.Nearest(query), params=self._parameters)
            for query in self._lengthened.asked(queries).tolist()
        ]
        batch = len(requests) > 1
        answers = self.shard.query_batch(edge.QueryBatchRequest(requests)) if batch else None
        rows = np.full((len(queries), k), -1, np.int64)
        for number, answer in enumerate(answers or [self.shard.query(requests[0])]):
            rows[number, : len(answer)] = [point.id for point in answer]
        return rows

    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        import qdrant_edge as edge

        stored = self._lengthened.stored(vectors).tolist()
        points = [edge.Point(row, vector) for row, vector in zip(rows.tolist(), stored)]
        self.shard.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, rows: Rows) -> None:
        import qdrant_edge as edge

        self.shard.update(edge.UpdateOperation.delete_points(rows.tolist()))

    def held(self, rows: Rows) -> int:
        return len(self.shard.retrieve(rows.tolist(), False, False))

    def settle(self) -> bool:
        self.shard.optimize()
        return True

    def close(self) -> None:
        self.shard.close()
