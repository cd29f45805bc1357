"""Batch search over one structure: blocks of queries, exclusions per query, k results whenever k exist.

Shapes: Q queries, k results per query, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from duality.index.structures.base import Found, Keys, Matrix32, Structure

MAX_K = 1_000_000
# Scores of one block: bounds memory to some tens of MB.
_BLOCK_RESULTS = 2_000_000
_BLOCK_QUERIES = 1_024


def search_blocks(
    structure: Structure,
    queries: Matrix32,
    k: int,
    *,
    allowed: Keys | None = None,
    excluded: Sequence[Keys] | None = None,
    exact: bool = False,
    device: str | None = None,
) -> Found:
    """Best k keys per query.

    Args:
        structure: what to search.
        queries: float32 [Q, D].
        k: results per query.
        allowed: keys that may be returned; None for all.
        excluded: per query, keys that must not be returned.
        exact: score every candidate.
        device: "cuda" scores on the GPU, exactly.

    Returns:
        Scores float32 [Q, k] and keys int64 [Q, k], best first; -inf and -1 pad a row only
        when fewer than k keys are allowed and not excluded.
    """
    exact = exact or device is not None
    if excluded is None and len(queries) * k <= _BLOCK_RESULTS and len(queries) <= _BLOCK_QUERIES:
        found = _search_block(structure, queries, k, allowed, None, exact, device)
        return found if found[1].shape[1] == k else _padded(found, len(queries), k)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    keys = np.full((len(queries), k), -1, np.int64)
    lengths = np.array([len(row) for row in excluded] if excluded else np.zeros(len(queries)), np.int64)
    # Queries that exclude about as much share a block, since all of a block fetch the same number.
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = order[start : start + _BLOCK_QUERIES]
        size = max(1, _BLOCK_RESULTS // (k + int(lengths[rows[-1]])))
        rows = rows[:size]
        without = [excluded[row] for row in rows.tolist()] if excluded else None
        found = _search_block(structure, queries[rows], k, allowed, without, exact, device)
        scores[rows, : found[0].shape[1]], keys[rows, : found[1].shape[1]] = found
        start += len(rows)
    return scores, keys


def _search_block(
    structure: Structure,
    queries: Matrix32,
    k: int,
    allowed: Keys | None,
    excluded: Sequence[Keys] | None,
    exact: bool,
    device: str | None,
) -> Found:
    scores, keys = _fetch(structure, queries, k, allowed, excluded, exact, device)
    # Nothing found comes last.
    if not exact and keys.size and np.count_nonzero(keys[:, -1] < 0):
        # An approximate search ran out of candidates; an exact one cannot.
        short = np.flatnonzero((keys < 0).any(axis=1))
        without = [excluded[row] for row in short.tolist()] if excluded else None
        more = _fetch(structure, queries[short], k, allowed, without, True, None)
        scores[short], keys[short] = more
    return scores, keys


def _fetch(
    structure: Structure,
    queries: Matrix32,
    k: int,
    allowed: Keys | None,
    excluded: Sequence[Keys] | None,
    exact: bool,
    device: str | None,
) -> Found:
    extra = max((len(row) for row in excluded), default=0) if excluded else 0
    found = structure.search(queries, k + extra, allowed, exact=exact, device=device)
    if not extra:
        return found
    scores, keys = _without(*found, excluded or [])
    width = min(k, keys.shape[1])
    return scores[:, :width], keys[:, :width]


def _without(scores: Matrix32, keys: Keys, excluded: Sequence[Keys]) -> Found:
    # One number per (query, key) pair turns the test of all queries into one set operation.
    stride = max(int(keys.max(initial=0)), max(int(row.max(initial=0)) for row in excluded)) + 1
    rows = np.arange(len(keys))[:, None]
    banned = np.concatenate([row_keys + row * stride for row, row_keys in enumerate(excluded)])
    gone = (keys < 0) | np.isin(keys + rows * stride, banned)
    order = np.argsort(gone, axis=1, kind="stable")
    gone = np.take_along_axis(gone, order, 1)
    scores = np.where(gone, np.float32(-np.inf), np.take_along_axis(scores, order, 1))
    return scores, np.where(gone, -1, np.take_along_axis(keys, order, 1))


def _padded(found: Found, rows: int, k: int) -> Found:
    scores = np.full((rows, k), -np.inf, np.float32)
    keys = np.full((rows, k), -1, np.int64)
    width = found[0].shape[1]
    scores[:, :width], keys[:, :width] = found
    return scores, keys
