"""Table `upsert`: durable upserts into a large side, rows per second and synced writes."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from index.measuring import Row, mark, seconds, synced, workplace
from index.worlds import K, Matrix32, Rows, Source, built, names_of, world

_BATCH = 1_000
# Batches of vectors that are drawn; then the first comes again.
_DRAWN = 50


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per kind, and per whether the search structure is in memory (and so is kept up to date)."""
    kinds = asked.kinds.split(",") if asked.kinds else ["exact", "ivf"]
    data = world("clustered", asked.rows, asked.dim)
    rows = []
    for kind in kinds:
        with workplace("upsert") as folder:
            kept = built(folder / "kept", data, kind)
            for loaded, space in ((False, 0), (True, 0), (True, 1)):
                shutil.rmtree(folder / "used", ignore_errors=True)
                shutil.copytree(kept, folder / "used")
                # Space 0 is the one the index was built from; vectors of another make it rebuild meanwhile.
                vectors = Source("clustered", asked.dim, space).items(_DRAWN * _BATCH, 5)
                found = _rates(
                    folder / "used", data.queries[:1], asked.rows, loaded, vectors, asked.seconds / 4
                )
                label = "no" if not loaded else ("yes", "yes, vectors of another space")[space]
                rows.append({"kind": kind, "structure loaded": label, **found})
                print(rows[-1], file=sys.stderr, flush=True)
            arguments = {"folder": str(folder / "used"), "rows": asked.rows}
            for row in rows[-3:]:
                row["syncs per batch"] = (synced("upserting:ten_batches", arguments) or 0) / 10
    return rows


def ten_batches(folder: str, rows: int) -> int:
    """In a traced child: ten batches between two marks."""
    from duality.index.pair import Pair

    with Pair.open(folder, "w") as pair:
        generator = np.random.default_rng(5)
        vectors = generator.normal(size=(100, pair.dim)).astype(np.float32)
        mark()
        for _ in range(10):
            pair.items.upsert(names_of(generator.choice(rows, 100, replace=False)), vectors)
        mark()
    return 10


def _rates(folder: Path, query: Matrix32, rows: int, loaded: bool, vectors: Matrix32, budget: float) -> Row:
    from duality.index.pair import Pair

    generator = np.random.default_rng(3)
    with Pair.open(folder, "w") as pair:
        side = pair.items
        if loaded:
            side.search(query, K)
        starts = itertools.cycle(range(0, len(vectors), _BATCH))

        def upsert(chosen: Rows) -> None:
            start = next(starts)
            side.upsert(names_of(chosen), vectors[start : start + len(chosen)])

        found: Row = {}
        # Single rows first: what comes later changes enough of the side to set off a rebuild beside the writes.
        ways: dict[str, Callable[[int], Rows]] = {
            "single, rows/s": lambda turn: generator.choice(rows, 1),
            "random, rows/s": lambda turn: generator.choice(rows, _BATCH, replace=False),
            "in key order, rows/s": lambda turn: (np.arange(_BATCH) + _BATCH * turn) % rows,
            "new, rows/s": lambda turn: np.arange(_BATCH) + rows + _BATCH * turn,
        }
        for name, chosen in ways.items():
            found[name] = _rate(upsert, chosen, budget)
        found["one sync, µs"] = 1e6 * _sync_seconds(folder / "probe")
        started = time.perf_counter()
    return {**found, "close s": time.perf_counter() - started}


def _rate(upsert: Callable[[Rows], None], chosen: Callable[[int], Rows], budget: float) -> float:
    """Rows per second; whatever the writer does in between, such as folding its log, counts."""
    upsert(chosen(0))
    done, turn, started = 0, 1, time.perf_counter()
    while time.perf_counter() - started < budget:
        batch = chosen(turn)
        upsert(batch)
        done, turn = done + len(batch), turn + 1
    return done / (time.perf_counter() - started)


def _sync_seconds(path: Path, repeat: int = 101) -> float:
    """Median seconds of appending 4 KB and syncing: what the disk charges, whoever writes."""
    with open(path, "wb") as file:

        def append() -> None:
            file.write(bytes(4_096))
            file.flush()
            os.fsync(file.fileno())

        return float(np.median([seconds(append) for _ in range(repeat)]))
