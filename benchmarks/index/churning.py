"""Table `churn`: recall and size while the vectors of a side are replaced by those of another space."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from index.measuring import Row, seconds, size_mb, workplace
from index.worlds import K, Matrix32, Rows, Source, World, best_rows, built, names_of, recall, world

_BATCH = 1_000
_QUERIES = 256


def measure(asked: argparse.Namespace) -> list[Row]:
    """Rows per kind: after 50%, 90% and 200% replaced, after deleting a region, after compaction."""
    kinds = asked.kinds.split(",") if asked.kinds else ["ivf", "hnsw", "ivfpq"]
    rows: list[Row] = []
    for kind in kinds:
        with workplace("churn") as folder:
            rows += _Churn(folder, kind, asked.rows, asked.dim).run()
    return rows


class _Churn:
    """One index, replaced step by step; `vectors` and `there` say what must be in it."""

    def __init__(self, folder: Path, kind: str, rows: int, dim: int) -> None:
        data = world("clustered", rows, dim)
        # Other centres: what arrives lies elsewhere, as after a shift of taste or of catalogue.
        self.moved = Source("clustered", dim, seed=8)
        self.old = Source("clustered", dim)
        self.folder, self.kind, self.vectors = folder, kind, data.items.copy()
        self.there = np.ones(rows, bool)
        self.generator = np.random.default_rng(2)
        self.build_seconds = seconds(lambda: built(folder / "index", data, kind))

    def run(self) -> list[Row]:
        """All steps on one index."""
        from duality.index.pair import Pair

        rows, order = len(self.vectors), self.generator.permutation(len(self.vectors))
        with Pair.open(self.folder / "index", "w") as pair:
            self.side = pair.items
            self.side.search(self.vectors[:1], K)
            found = [self._measured("built", 0.0, 0.0)]
            found.append(self._replaced("50% replaced", order[: rows // 2], 0.5))
            found.append(self._replaced("90% replaced", order[rows // 2 : rows * 9 // 10], 0.9))
            again = np.concatenate([order[rows * 9 // 10 :], order])
            found.append(self._replaced("200% replaced", again, 1.0))
            found.append(self._deleted("a region of 30% deleted"))
            compacted = seconds(self.side.compact)
            found.append({**self._measured("compacted", 0.0, 1.0), "rebuilding, s": compacted})
        for row in found:
            print(row, file=sys.stderr, flush=True)
        return found

    def _replaced(self, label: str, rows: Rows, share: float) -> Row:
        started = time.perf_counter()
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            vectors = self.moved.items(len(chosen), int(self.generator.integers(1 << 30)))
            self.side.upsert(names_of(chosen), vectors)
            self.vectors[chosen] = vectors
        return self._measured(label, len(rows) / (time.perf_counter() - started), share)

    def _deleted(self, label: str) -> Row:
        gone = np.argsort(self.vectors[:, 0])[-len(self.vectors) * 3 // 10 :]
        started = time.perf_counter()
        self.side.delete(names_of(gone))
        self.there[gone] = False
        return self._measured(label, len(gone) / (time.perf_counter() - started), 1.0)

    def _measured(self, label: str, rate: float, share: float) -> Row:
        """Recall at once and after the upkeep in the background, and of an index built from the same vectors."""
        queries = self._queries(share)
        kept = np.flatnonzero(self.there)
        truth = kept[best_rows(self.vectors[kept], queries, K)]

        def found() -> float:
            return recall(self.side.search(queries, K)[0], truth)

        at_once, waited = found(), _wait_for_upkeep()
        return {
            "kind": self.kind,
            "state": label,
            "recall at once": at_once,
            "after upkeep": found(),
            "fresh build": self._fresh(queries, kept),
            "rows/s": rate or None,
            "rebuilding, s": waited,
            "MB on disk": size_mb(self.folder / "index"),
        }

    def _queries(self, share: float) -> Matrix32:
        """From the old and from the new space, as many as there are vectors of each."""
        new = round(share * _QUERIES)
        old = self.old.queries(_QUERIES - new, 6)
        return np.concatenate([old, self.moved.queries(new, 7)])

    def _fresh(self, queries: Matrix32, kept: Rows) -> Any:
        from duality.index.pair import Pair

        data = World(np.ascontiguousarray(self.vectors[kept]), queries)
        with workplace("fresh") as folder, Pair.open(built(folder / "index", data, self.kind)) as pair:
            return recall(pair.items.search(queries, K)[0], data.truth())


def _wait_for_upkeep() -> float:
    """Seconds until the threads that rebuild in the background are done."""
    started = time.perf_counter()
    for thread in threading.enumerate():
        if thread.name.startswith("upkeep-"):
            thread.join()
    return time.perf_counter() - started
