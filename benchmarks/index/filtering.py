"""Table `filter`: the planner beside each single way of answering a filtered search."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.bare import Bare
from index.measuring import Row, interleaved, seconds, turns, workplace
from index.worlds import K, Matrix32, Rows, Source, World, best_rows, built, recall, world

_TARGET = 0.95
# A single way is compared where it finds as much as we do, but for so much.
_CLOSE = 0.005
_QUERIES = 128
Mask = NDArray[np.bool_]


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per data set and filter."""
    kind = asked.kinds or "ivf"
    rows = []
    for name in asked.data.split(","):
        data = world(name, asked.rows, asked.dim)
        generator = np.random.default_rng(9)
        columns = {"part": generator.integers(0, 1_000, asked.rows), "away": _ranks(data.items)}
        with workplace("filter") as folder:
            built(folder / "index", data, kind, dict(columns))
            _tune(folder / "index", data)
            singles = _singles(data.items)
            for label, where, queries in _filters(name, data, asked.dim):
                mask = _mask(where, columns)
                found = _filter(
                    folder / "index", where, mask, World(data.items, queries), singles, asked.seconds
                )
                rows.append({"data": name, "matching": label, **found})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _filters(name: str, data: World, dim: int) -> list[tuple[str, str, Matrix32]]:
    """Label, filter and queries; anti-correlated filters keep what lies away from their queries."""
    many = Source(name, dim).queries(16 * _QUERIES, 4)
    toward = many[np.argsort(-many[:, 0])[:_QUERIES]]
    shares = {"50%": 500, "10%": 100, "1%": 10, "0.1%": 1}
    evenly = [(label, f"part < {limit}", data.queries[:_QUERIES]) for label, limit in shares.items()]
    return [
        *evenly,
        ("50% away from the query", "away < 500", np.ascontiguousarray(toward)),
        ("10% away from the query", "away < 100", np.ascontiguousarray(toward)),
    ]


def _tune(folder: Path, data: World) -> None:
    """The setting that reaches the recall without a filter; what filters need on top is the planner's task."""
    from duality.index.pair import Pair

    with Pair.open(folder, "w") as pair:
        pair.tune("items", data.queries, K, _TARGET)


def _ranks(items: Matrix32) -> NDArray[np.int64]:
    """Permille rank of each item along the first direction."""
    ranks = np.empty(len(items), np.int64)
    ranks[np.argsort(items[:, 0])] = np.arange(len(items)) * 1_000 // len(items)
    return ranks


def _mask(where: str, columns: dict[str, NDArray[np.int64]]) -> Mask:
    column, _, limit = where.split()
    return columns[column] < int(limit)


def _singles(items: Matrix32) -> dict[str, Bare]:
    lists = {"nlist": int(2 * len(items) ** 0.5)}
    graph = {"m": 32, "ef_construction": 100}
    return {
        "bitmap scan": Bare("exact", {}, items),
        "IVF + bitmap": Bare("ivf", lists, items),
        "HNSW + bitmap": Bare("hnsw", graph, items),
    }


def _filter(
    folder: Path, where: str, mask: Mask, data: World, singles: dict[str, Bare], budget: float
) -> Row:
    from duality.index.pair import Pair

    kept = np.flatnonzero(mask)
    truth = kept[best_rows(data.items[kept], data.queries, K)]
    with Pair.open(folder) as pair:
        side = pair.items
        side.search(data.queries[:1], K)
        first = seconds(lambda: side.search(data.queries[:1], K, where=where))

        def times(most: int, single: bool = False, before: int = 2) -> dict[str, float]:
            asked = Asked(data.queries, single)
            ways = _ways(data.items, asked, kept, mask, singles, reached)
            ways["duality"] = lambda: side.search(asked.next("duality"), K, where=where)
            number = turns(lambda: [way() for way in ways.values()], budget / (before + 1), most=most)
            return interleaved(ways, number, before)

        ours = recall(side.search(data.queries, K, where=where)[0], truth)
        found = {"plan": side.plan(K, where=where).strategy, "recall": ours}
        target = max(_TARGET, ours - _CLOSE)
        reached = {"gather and scan": (0, 1.0)}
        reached |= {name: _effort(bare, data.queries, mask, truth, target) for name, bare in singles.items()}
        batch, one = times(21), times(101, single=True)
        cold, cold_one = times(21, before=0), times(101, single=True, before=0)
    good = [name for name, (_, recalled) in reached.items() if recalled >= target]
    best, best_of_one = (min(good, key=taken.__getitem__) for taken in (batch, one))
    return {
        **found,
        "queries/s": len(data.queries) / batch["duality"],
        "of the best": batch[best] / batch["duality"],
        "best": f"{best} ({reached[best][0]}: {reached[best][1]:.2f})",
        "cold caches": _share(cold, good),
        "1: ms": 1e3 * one["duality"],
        "1: more, ms": 1e3 * (one["duality"] - one[best_of_one]),
        "1: of the best": one[best_of_one] / one["duality"],
        "1: cold caches": _share(cold_one, good),
        "1: best": best_of_one,
        "first time, ms": 1e3 * first,
        **{
            f"{name}, queries/s": len(data.queries) / batch[name]
            if name in good
            else f"recall {recalled:.2f}"
            for name, (_, recalled) in reached.items()
        },
    }


def _share(taken: dict[str, float], good: list[str]) -> float:
    """Our rate as a share of the best single way's."""
    return min(taken[name] for name in good) / taken["duality"]


class Asked:
    """Queries [Q, D] as one batch, or one after the other, the same for every way."""

    def __init__(self, queries: Matrix32, single: bool) -> None:
        self._queries, self._single = queries, single
        self._turns: dict[str, int] = {}

    def next(self, way: str) -> Matrix32:
        """What a way is asked in its next turn."""
        if not self._single:
            return self._queries
        turn = self._turns[way] = self._turns.get(way, -1) + 1
        return self._queries[turn % len(self._queries)][None]


def _ways(
    items: Matrix32,
    asked: Asked,
    kept: Rows,
    mask: Mask,
    singles: dict[str, Bare],
    reached: dict[str, tuple[int, float]],
) -> dict[str, Callable[[], Any]]:
    """Each single way at the effort it needs."""

    def way(name: str, bare: Bare) -> Callable[[], Any]:
        return lambda: bare.search_among(asked.next(name), K, mask, reached[name][0])

    scan = "gather and scan"
    ways: dict[str, Callable[[], Any]] = {scan: lambda: best_rows(items[kept], asked.next(scan), K)}
    return ways | {name: way(name, bare) for name, bare in singles.items()}


def _effort(bare: Bare, queries: Matrix32, mask: Mask, truth: Rows, target: float) -> tuple[int, float]:
    """Cheapest probes or candidates with the recall wanted, else the dearest; and what it reaches."""
    if bare.kind == "exact":
        return 0, 1.0
    effort, most = (16, 4_096) if bare.kind == "hnsw" else (1, bare.index.nlist)
    while True:
        effort = min(effort, most)
        found = recall(bare.search_among(queries, K, mask, effort), truth)
        if found >= target or effort == most:
            return effort, found
        effort = max(effort + 1, int(1.4 * effort))
