"""Packed batches: whole histories, one after another, cut by a budget of rows.

No history is truncated and nothing is padded; a history longer than the budget is a batch of
its own.
"""

from __future__ import annotations

import numpy as np

from duality.data.histories import Histories


def row_batches(
    histories: Histories, rows: int, rng: np.random.Generator | None = None, *, by_length: bool = False
) -> list[np.ndarray]:
    """Owners with a non-empty history, in batches of about `rows` events.

    Args:
        histories: of one side.
        rows: budget of events per batch; a batch ends before the history that would exceed it.
        rng: shuffles the owners; None sorts them by length (inference).
        by_length: sort shuffled owners all the same, so that a batch holds histories of about one length.

    Returns:
        int64 arrays of owners, each sorted by length so that equally long histories lie together.
    """
    owners = np.flatnonzero(histories.lengths)
    if rng is not None:
        owners = rng.permutation(owners)
    lengths = histories.lengths[owners]
    if rng is None or by_length:
        order = np.argsort(lengths, kind="stable")
        owners, lengths = owners[order], lengths[order]
    cuts = _cuts(lengths, rows)
    batches = np.split(owners, cuts) if len(owners) else []
    return [batch[np.argsort(histories.lengths[batch], kind="stable")] for batch in batches]


def _cuts(lengths: np.ndarray, rows: int) -> np.ndarray:
    ends = np.cumsum(lengths)
    cuts, start = [], 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + rows, side="right")), start + 1)
        cuts.append(stop)
        start = stop
    return np.array(cuts[:-1], dtype=np.int64)
