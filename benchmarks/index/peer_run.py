"""One engine through all measurements of table `peers`; runs in that engine's environment."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from index.drivers.base import Driver
from index.measuring import Row, interleaved, mark, turns, workplace
from index.worlds import K, Matrix32, Rows, Source, best_rows, recall, world

_TARGET = 0.95
_BATCH, _SINGLES = 256, 10
_WRITE = 1_000
# Rows of a batch whose survival is checked.
_CRASH_ROWS, _CRASH_BATCH = 5_000, 100


def measured(driver: str, data: str, rows: int, dim: int, threads: int, queries: int, budget: float) -> Row:
    """Build, search, replace half of the rows, search again, delete; ratios to FAISS Flat in turn."""
    made = world(data, rows, dim, queries)
    vectors = made.items.copy()
    with workplace("peer") as folder:
        engine = _driver(driver, folder, dim, threads)
        started = time.perf_counter()
        engine.build(vectors)
        build = time.perf_counter() - started
        setting, first = _first_setting(engine, made.queries, made.truth())
        found = {"build s": build, "setting": setting, "recall": first}
        found |= _speeds(engine, vectors, made.queries, budget)
        found["upserts/s"] = _replace_half(engine, vectors, Source(data, dim))
        truth = best_rows(vectors, made.queries, K)
        found["recall after 50%"] = recall(engine.search(made.queries, K), truth)
        found["×Flat after"] = _speeds(engine, vectors, made.queries, budget)["256: ×Flat"]
        started = time.perf_counter()
        if engine.settle():
            found["settle s"] = time.perf_counter() - started
            found["recall settled"] = recall(engine.search(made.queries, K), truth)
            found["×Flat settled"] = _speeds(engine, vectors, made.queries, budget)["256: ×Flat"]
        found["deletes/s"], found["ghosts"] = _deletes(engine, vectors, made.queries)
        engine.close()
    return found


def ten_batches(driver: str, dim: int, threads: int) -> int:
    """In a traced process: ten acknowledged batches between two marks."""
    vectors = Source("clustered", dim).items(_CRASH_ROWS, 1)
    with workplace("syncs") as folder:
        engine = _driver(driver, folder, dim, threads)
        engine.build(vectors)
        engine.upsert(np.arange(_CRASH_BATCH), vectors[:_CRASH_BATCH])
        mark()
        for number in range(10):
            engine.upsert(_batch(number), vectors[:_CRASH_BATCH])
        mark()
        engine.close()
    return 10


def write_until_killed(folder: str, driver: str, dim: int, threads: int) -> None:
    """Build, say "ready", then write batches of new rows and say the number of each acknowledged one."""
    vectors = Source("clustered", dim).items(_CRASH_ROWS, 1)
    engine = _driver(driver, Path(folder), dim, threads)
    engine.build(vectors)
    sys.stdout.write("ready\n")
    number = 0
    while True:
        engine.upsert(_batch(number), vectors[:_CRASH_BATCH])
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


def survivors(folder: str, driver: str, dim: int, threads: int, batches: int) -> dict[str, int]:
    """After a kill: batches lost of those acknowledged, and batches that are there in part."""
    engine = _driver(driver, Path(folder), dim, threads)
    engine.open()
    held = [engine.held(_batch(number)) for number in range(batches + 1)]
    engine.close()
    return {
        "lost": sum(count < _CRASH_BATCH for count in held[:batches]),
        "partial": sum(0 < count < _CRASH_BATCH for count in held),
    }


def build_in(folder: str, driver: str, data: str, rows: int, dim: int, threads: int) -> int:
    """Build an index that a later process opens."""
    engine = _driver(driver, Path(folder), dim, threads)
    engine.build(Source(data, dim).items(rows, 1))
    engine.close()
    return rows


def first_answer(folder: str, driver: str, dim: int, threads: int, query: str) -> dict[str, float]:
    """In a fresh process: seconds from the start of opening to one answer."""
    engine = _driver(driver, Path(folder), dim, threads)
    asked = np.load(query)
    started = time.perf_counter()
    engine.open()
    engine.use(64)
    engine.search(asked, K)
    return {"open": time.perf_counter() - started}


def _driver(name: str, folder: Path, dim: int, threads: int) -> Driver:
    module, made = name.split(":")
    return getattr(importlib.import_module(f"index.drivers.{module}"), made)(folder, dim, threads)


def _batch(number: int) -> Rows:
    return _CRASH_ROWS + _CRASH_BATCH * number + np.arange(_CRASH_BATCH)


def _first_setting(engine: Any, queries: Matrix32, truth: Rows) -> tuple[str, float]:
    """The first effort with the recall wanted, or the one that finds most."""
    if hasattr(engine, "tune"):
        engine.tune(queries, _TARGET)
        return "tuned", recall(engine.search(queries, K), truth)
    best = (-1.0, 0)
    for effort in engine.efforts:
        engine.use(effort)
        best = max(best, (recall(engine.search(queries, K), truth), effort))
        if best[0] >= _TARGET:
            break
    engine.use(best[1])
    return str(best[1]), best[0]


def _speeds(engine: Driver, vectors: Matrix32, queries: Matrix32, budget: float) -> Row:
    batch, singles = queries[:_BATCH], [queries[row : row + 1] for row in range(_SINGLES)]
    many = {"engine": lambda: engine.search(batch, K), "flat": lambda: best_rows(vectors, batch, K)}
    one = {
        "engine": lambda: [engine.search(query, K) for query in singles],
        "flat": lambda: [best_rows(vectors, query, K) for query in singles],
    }
    times = interleaved(many, turns(many["engine"], budget, least=3, most=15))
    single = interleaved(one, turns(one["engine"], budget, least=3, most=15))
    return {
        "1: queries/s": _SINGLES / single["engine"],
        "1: ×Flat": single["flat"] / single["engine"],
        "256: queries/s": len(batch) / times["engine"],
        "256: ×Flat": times["flat"] / times["engine"],
    }


def _replace_half(engine: Driver, vectors: Matrix32, source: Source) -> float:
    """Rows per second; `vectors` is kept up."""
    generator = np.random.default_rng(2)
    chosen = generator.permutation(len(vectors))[: len(vectors) // 2]
    vectors[chosen] = source.items(len(chosen), 77)
    started = time.perf_counter()
    for start in range(0, len(chosen), _WRITE):
        rows = chosen[start : start + _WRITE]
        engine.upsert(rows, vectors[rows])
    return len(chosen) / (time.perf_counter() - started)


def _deletes(engine: Driver, vectors: Matrix32, queries: Matrix32) -> tuple[float, int]:
    """Rows deleted per second, and how many deleted rows searches still return."""
    chosen = np.random.default_rng(3).permutation(len(vectors))[: len(vectors) // 10]
    started = time.perf_counter()
    for start in range(0, len(chosen), _WRITE):
        engine.delete(chosen[start : start + _WRITE])
    rate = len(chosen) / (time.perf_counter() - started)
    return rate, int(np.isin(engine.search(queries, K), chosen).sum())
