"""Searches and updates in one process at the same time: every answer is of a state that there was.

DUALITY_THREAD_SECONDS  how long they run beside each other, per kind (3)
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from contract_states import DIM, build_index, built_state, vectors_for

from duality.index.pair import Pair
from duality.index.side import Side

SECONDS = float(os.environ.get("DUALITY_THREAD_SECONDS", "3"))
ROWS, K, SEARCHERS = 150, 10, 3
QUERIES = vectors_for(41, 16)
BEACON = np.ones(DIM, np.float32)


@dataclass
class Past:
    """What each id was: from when it could have been so, until when at most."""

    since: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    until: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    vectors: dict[str, list[np.ndarray | None]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, ids: list[str], vectors: np.ndarray | None) -> None:
        """A write of these starts: from now on it may be seen."""
        now = time.perf_counter()
        for row, id in enumerate(ids):
            self.since[id].append(now)
            self.vectors[id].append(None if vectors is None else vectors[row])

    def end(self, ids: list[str]) -> None:
        """It returned: what was before must not be seen in a search that starts now."""
        now = time.perf_counter()
        for id in ids:
            self.until[id].append(now)

    def may_be(self, id: str, start: float, stop: float) -> list[np.ndarray | None]:
        """What an id may have been for a search from `start` to `stop`."""
        first = bisect_right(self.until[id], start)
        last = bisect_right(self.since[id], stop)
        # The version before the first one that ended later was still there at the start.
        return self.vectors[id][max(0, first - 1) : last]


@dataclass
class Answer:
    """One search."""

    start: float
    stop: float
    query: np.ndarray
    ids: list[str | None]
    scores: np.ndarray


def search_on(
    side: Side, stop: threading.Event, answers: list[Answer], failures: list[BaseException]
) -> None:
    """Search until told to stop; every fourth query looks for the beacons."""
    number = 0
    try:
        while not stop.is_set():
            number += 1
            query = BEACON if number % 4 == 0 else QUERIES[number % len(QUERIES)]
            start = time.perf_counter()
            ids, scores = side.search(query[None], K, exact=number % 8 == 0)
            answers.append(Answer(start, time.perf_counter(), query, ids[0].tolist(), scores[0]))
    except BaseException as error:
        failures.append(error)


def write_on(side: Side, past: Past, seconds: float) -> int:
    """Upsert, delete and compact; beacons come and go: one is nearest to its query by far."""
    rng, until, number = np.random.default_rng(3), time.monotonic() + seconds, 0
    ids = [f"i{row}" for row in range(ROWS)]
    while time.monotonic() < until:
        number += 1
        some = [ids[row] for row in rng.choice(ROWS, 20, replace=False)]
        beacon = f"beacon{number}"
        batch = [*some, beacon]
        vectors = np.concatenate([vectors_for(number, len(some)), (BEACON * (50 + number))[None]])
        past.begin(batch, vectors)
        side.upsert(batch, vectors)
        past.end(batch)
        gone = [f"beacon{number - 1}", *some[:5]]
        past.begin(gone, None)
        side.delete(gone)
        past.end(gone)
        if number % 20 == 0:
            side.compact()
    return number


def wrong(answer: Answer, past: Past) -> str | None:
    """What is wrong with an answer."""
    found = [id for id in answer.ids if id is not None]
    if len(found) != K or len(set(found)) != K:
        return f"{len(set(found))} results of {K}"
    for id, score in zip(found, answer.scores):
        versions = past.may_be(id, answer.start, answer.stop)
        held = [vector for vector in versions if vector is not None]
        if not held:
            return f"{id} was deleted before the search began"
        true = [float(vector.astype(np.float64) @ answer.query) for vector in held]
        if not any(abs(score - one) <= 1e-4 * max(1.0, abs(one)) for one in true):
            return f"{id} scored {score}; true at the time: {true}"
    return _unseen_beacon(answer, past, found) if answer.query is BEACON else None


def _unseen_beacon(answer: Answer, past: Past, found: list[str]) -> str | None:
    """A beacon that was acknowledged before the search began, and not being deleted until it ended."""
    for id, ends in past.until.items():
        awaited = id.startswith("beacon") and ends[0] < answer.start and id not in found
        if awaited and all(one is not None for one in past.may_be(id, answer.start, answer.stop)):
            return f"{id} was acknowledged and is not found"
    return None


def shown(latencies: list[float]) -> str:
    """Quantiles of latencies in milliseconds."""
    milliseconds = np.array(latencies) * 1e3
    quantiles = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return ", ".join(f"{name} {np.percentile(milliseconds, at):.2f}" for name, at in quantiles.items())


def run(side: Side, past: Past, seconds: float, *, writing: bool) -> tuple[list[Answer], int]:
    """Search in several threads, while writing or not."""
    stop, answers, failures = threading.Event(), [list[Answer]() for _ in range(SEARCHERS)], []
    threads = [
        threading.Thread(target=search_on, args=(side, stop, answers[number], failures))
        for number in range(SEARCHERS)
    ]
    for thread in threads:
        thread.start()
    try:
        if writing:
            writes = write_on(side, past, seconds)
        else:
            time.sleep(seconds)
            writes = 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, repr(failures[0])
    return [answer for thread in answers for answer in thread], writes


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_searches_during_updates_are_right(kind: str, scratch: Path) -> None:
    folder, past = scratch / "index", Past()
    build_index(folder, kind, 5, 10, ROWS)
    rows = built_state(5, 10, ROWS)["items"]
    vectors = np.stack([np.frombuffer(vector, "<f4") for vector, _ in rows.values()])
    past.begin(list(rows), vectors)
    past.end(list(rows))
    with Pair.open(folder, "w") as pair:
        pair.items.search(QUERIES[:1], K)
        idle, _ = run(pair.items, past, SECONDS / 6, writing=False)
        busy, writes = run(pair.items, past, SECONDS, writing=True)
    for name, answers in [("idle", idle), (f"during {writes} writes", busy)]:
        latencies = [answer.stop - answer.start for answer in answers]
        print(f"{kind}, {name}: {len(answers)} searches, ms: {shown(latencies)}")
    rng = np.random.default_rng(0)
    checked = [busy[number] for number in rng.permutation(len(busy))[:4_000]]
    problems = [problem for answer in [*idle[:500], *checked] if (problem := wrong(answer, past))]
    assert not problems, "\n".join([f"{len(problems)} of {len(checked)} answers wrong", *problems[:10]])
    assert writes >= 10
    assert len(busy) >= 10 * SEARCHERS, "searches stood still while there were writes"
