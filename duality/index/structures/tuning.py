"""The cheapest search setting that reaches a recall, measured on queries against the exact answers.

Shapes: Q queries, k results, D dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.base import Structure
from duality.index.structures.hnsw import Hnsw
from duality.index.structures.ivf import Ivf
from duality.index.structures.matrix import Matrix32

# Searches are timed for at least so long; the fastest of the rounds counts.
SECONDS, ROUNDS = 0.03, 3
# Where two settings trade against each other, so many that reach the target are compared.
TRIED_MORE = 3
# One-sided 95%.
Z = 1.645


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Args:
        setting: for the spec's [search] section and for `search(setting=…)`; empty for exact.
        recall: index_recall@k of the setting, of the exact neighbours.
        low: lower end of its 95% confidence interval (one-sided).
        reached: whether `low` is at least the target.
        queries_per_second: of the setting, in one batch.
        table: every setting tried: `setting`, `recall`, `low`, `queries_per_second`.
    """

    setting: dict[str, Any]
    recall: float
    low: float
    reached: bool
    queries_per_second: float
    table: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def tune(structure: Structure, queries: Matrix32, k: int, target_recall: float) -> Tuned:
    """Measure a ladder of settings; the cheapest whose recall is surely enough, else the best.

    Args:
        structure: what to tune; not changed.
        queries: float32 [Q, D], like those that will be asked, Q >= 1.
        k: results per query.
        target_recall: 0 to 1, to be met by the lower end of the confidence interval.

    Raises:
        ValueError: no query, or nothing to search.
    """
    if not len(queries) or not structure.count:
        raise ValueError("tuning needs queries and vectors")
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, structure.count)
    truth = structure.search(queries, k, exact=True)[0]
    table = []
    for setting in _ladder(structure, k):
        table.append(_measured(structure, queries, k, setting, truth))
        if table[-1]["low"] >= target_recall and _settled(table, target_recall):
            break
    enough = [row for row in table if row["low"] >= target_recall]
    chosen = (
        max(enough, key=lambda row: row["queries_per_second"])
        if enough
        else max(table, key=lambda row: row["recall"])
    )
    return Tuned(**chosen, reached=bool(enough), table=table)


def _measured(
    structure: Structure, queries: Matrix32, k: int, setting: dict[str, Any], truth: Matrix32
) -> dict[str, Any]:
    recalls = _recalls(structure.search(queries, k, setting=setting)[0], truth)
    return {
        "setting": setting,
        "recall": float(recalls.mean()),
        "low": _low(recalls, k),
        "queries_per_second": _rate(structure, queries, k, setting),
    }


def _recalls(scores: Matrix32, truth: Matrix32) -> NDArray[np.float64]:
    """Share [Q] of results as good as the exact ones: among equal scores any key is right."""
    # Different summation orders differ in the last digits.
    worst = truth[:, -1:] - 1e-5 * np.abs(truth[:, -1:])
    found = (scores >= worst).sum(axis=1)
    return np.minimum(found / truth.shape[1], 1.0)


def _low(recalls: NDArray[np.float64], k: int) -> float:
    """Lower end of the interval for the mean; all ones are no proof of one."""
    number = len(recalls)
    spread = max(float(recalls.std(ddof=1)) if number > 1 else 0.0, 1.0 / (k * number**0.5))
    return max(0.0, float(recalls.mean()) - Z * spread / number**0.5)


def _rate(structure: Structure, queries: Matrix32, k: int, setting: dict[str, Any]) -> float:
    best = 0.0
    for _ in range(ROUNDS):
        start, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < SECONDS / ROUNDS or not done:
            structure.search(queries, k, setting=setting)
            done += len(queries)
        best = max(best, done / max(time.perf_counter() - start, spent, 1e-9))
    return best


def _ladder(structure: Structure, k: int) -> Iterator[dict[str, Any]]:
    """Settings from cheap to dear."""
    if isinstance(structure, Hnsw):
        for ef in (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048, 4_096):
            if ef >= k:
                yield {"ef_search": ef, "k": k}
    elif isinstance(structure, Ivf):
        for probes in _probes(structure.nlist):
            for rerank in (2, 4, 8, 16, 32) if structure.codec.compressed else (0,):
                setting = {"nprobe": probes, "nlist": structure.nlist, "k": k}
                yield {**setting, "rerank": rerank} if rerank else setting
    else:
        yield {}


def _probes(nlist: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … and all."""
    steps = [step for power in range(21) for step in (1 << power, 3 << power >> 1) if step < nlist]
    return sorted({*steps, nlist})


def _settled(table: list[dict[str, Any]], target: float) -> bool:
    """Whether dearer settings need not be tried."""
    last = table[-1]["setting"]
    return "rerank" not in last or sum(row["low"] >= target for row in table) >= TRIED_MORE
