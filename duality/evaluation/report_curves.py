"""Beyond one cutoff: recall at every depth, and where the targets are ranked.

Shapes: Q queries, K cutoffs, B bins of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from duality.evaluation.intervals import cluster_bootstrap
from duality.evaluation.protocol import Measured
from duality.metrics import ndcg

POINTS = 30
RANKS = (1, 2, 4, 11, 31, 101, 301, 1001, 3001, 10_001, 100_001, 1_000_001)


def by_strength(measured: Measured, pool: int = 0) -> list[str]:
    """The scorers after the first, the best NDCG@10 first."""
    quality = {name: float(ndcg(ranks[pool], 10).mean()) for name, ranks in measured.ranks.items()}
    return sorted(list(measured.ranks)[1:], key=lambda name: -quality[name])


def recall_curve(measured: Measured, *, pool: int = 0, seed: int = 0) -> dict[str, Any]:
    """Share of queries whose target is among the first k, for k up to all candidates.

    Returns:
        `k` [K]; `recall` {scorer: [K]}; `low` and `high` [K] of the first scorer, None with a
        single source; `chance` [K], what a random order would reach.
    """
    competing = measured.competing[pool]
    ks = cutoffs_up_to(int(competing.max()))
    first = next(iter(measured.ranks))
    curves = {name: _recalls(ranks[pool], ks).mean(axis=0) for name, ranks in measured.ranks.items()}
    band = cluster_bootstrap(_recalls(measured.ranks[first][pool], ks), measured.clusters, seed=seed)
    known = bool(np.isfinite(band.low).all())
    return {
        "k": ks.tolist(),
        "recall": {name: curve.tolist() for name, curve in curves.items()},
        "low": band.low.tolist() if known else None,
        "high": band.high.tolist() if known else None,
        "chance": np.minimum(ks[None, :] / competing[:, None], 1.0).mean(axis=0).tolist(),
    }


def cutoffs_up_to(most: int, points: int = POINTS) -> np.ndarray:
    """Whole numbers from 1 to `most`, evenly spaced on a log scale: int64 [K], K <= points."""
    return np.unique(np.round(np.geomspace(1, most, points)).astype(np.int64))


def _recalls(ranks: np.ndarray, ks: np.ndarray) -> np.ndarray:
    return (ranks[:, None] <= ks[None, :]).astype(np.float64)


def rank_shares(measured: Measured, scorers: Sequence[str], *, pool: int = 0) -> dict[str, Any]:
    """How the ranks of the targets are distributed.

    Returns:
        `bins`, B labels such as "4 to 10", together all ranks; `share` {scorer: [B]}, each sums to 1.
    """
    most = int(measured.competing[pool].max())
    starts = np.array([rank for rank in RANKS if rank <= most])
    ends = np.append(starts[1:] - 1, most)
    labels = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(starts, ends, strict=True)]
    shares = {}
    for name in scorers:
        place = np.searchsorted(starts, measured.ranks[name][pool], side="right") - 1
        shares[name] = (np.bincount(place, minlength=len(starts)) / len(place)).tolist()
    return {"bins": labels, "share": shares}
