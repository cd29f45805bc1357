"""Table `latency`: how long single searches take while another thread writes without pause."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from index.measuring import Row, workplace
from index.worlds import K, Matrix32, World, built, names_of, world


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per kind and size of the batches written; 0 is an idle writer."""
    kinds = asked.kinds.split(",") if asked.kinds else ["exact", "ivf", "hnsw", "sq8"]
    data = world("clustered", asked.rows, asked.dim)
    rows: list[Row] = []
    for kind in kinds:
        with workplace("latency") as folder:
            built(folder / "index", data, kind)
            for batch in (0, 100, 1_000):
                rows.append({"kind": kind, **_row(folder / "index", data, batch, asked.seconds)})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _row(folder: Path, data: World, batch: int, budget: float) -> Row:
    from duality.index.pair import Pair

    with Pair.open(folder, "w") as pair:
        side = pair.items
        side.search(data.queries, K)
        writer = _Writer(side, batch, len(data.items), pair.dim)
        thread = threading.Thread(target=writer.run)
        thread.start()
        times = _searches(side, data.queries, budget)
        writer.stop.set()
        thread.join()
    quantiles = np.quantile(times, [0.5, 0.95, 0.99, 1.0]) * 1e3
    named = {f"{name} ms": float(value) for name, value in zip(("p50", "p95", "p99", "max"), quantiles)}
    return {
        "batch": batch or "idle",
        **named,
        "searches/s": len(times) / budget,
        "rows written/s": writer.rate,
    }


def _searches(side: Any, queries: Matrix32, budget: float) -> list[float]:
    times: list[float] = []
    started = time.perf_counter()
    while True:
        query = queries[len(times) % len(queries)][None]
        begun = time.perf_counter()
        side.search(query, K)
        times.append(time.perf_counter() - begun)
        if begun - started > budget:
            return times


class _Writer:
    """Upserts batches of `batch` rows, half of them new, until `stop` is set."""

    def __init__(self, side: Any, batch: int, rows: int, dim: int) -> None:
        self._side, self._batch, self._rows, self._dim = side, batch, rows, dim
        self.stop, self.rate = threading.Event(), 0.0

    def run(self) -> None:
        """In a thread."""
        generator, done, started = np.random.default_rng(4), 0, time.perf_counter()
        fresh = self._rows
        while self._batch and not self.stop.is_set():
            half = self._batch // 2
            chosen = np.concatenate(
                [generator.choice(self._rows, self._batch - half, replace=False), fresh + np.arange(half)]
            )
            vectors = generator.normal(scale=0.1, size=(self._batch, self._dim)).astype(np.float32)
            self._side.upsert(names_of(chosen), vectors)
            done, fresh = done + self._batch, fresh + half
        self.rate = done / (time.perf_counter() - started)
