"""Exact search: every candidate is scored.

Cost:  N D multiplications a query; removed rows are skipped by fetching a few more, so that the fast
       matrix product of FAISS can be used on memory as it is.

Shapes: Q queries, k results, N candidates, D dimensions, P positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.labels import Labels
from duality.index.structures.matrix import Keys, Matrix, Matrix32
from duality.index.structures.results import Found, merged, nothing, widened
from duality.index.structures.selecting import select, selecting_pays


def nearest(queries: Matrix32, rows: Matrix32, k: int) -> Found:
    """The k best rows [N, D] per query by inner product; row numbers, -1 pads when N < k."""
    module = faiss()
    scores: Matrix32
    scores, found = module.knn(queries, rows, k, metric=module.METRIC_INNER_PRODUCT)
    return scores, found


def scan(matrix: Matrix, labels: Labels, queries: Matrix32, k: int) -> Found:
    """Best k live positions per query."""
    base = len(matrix.base)
    if not labels.dead:
        if not len(matrix.added):
            return nearest(queries, matrix.base, k)
        first = nearest(queries, matrix.base, min(k, base)) if base else nothing(len(queries))
        second = nearest(queries, matrix.added, min(k, len(matrix.added)))
        return merged(first, _shifted(second, base), k)
    live = labels.by_position >= 0
    first = _scan_live(matrix.base, live[:base], queries, k)
    second = _scan_live(matrix.added, live[base:], queries, k)
    return widened(merged(first, _shifted(second, base), k), k)


def scan_some(rows: Matrix32, queries: Matrix32, k: int, positions: Keys) -> Found:
    """Best k of `positions` [M] per query, whose vectors were copied out: rows [M, D]."""
    k = min(k, len(positions))
    find = select if selecting_pays(len(queries), len(rows), k) else nearest
    scores, found = find(queries, rows, k)
    return scores, positions.take(found, mode="wrap")


def scan_masked(matrix: Matrix, queries: Matrix32, k: int, mask: NDArray[np.bool_]) -> Found:
    """Best k positions per query among those where mask [P] is true, read in place."""
    base = len(matrix.base)
    first = _selected(matrix.base, mask[:base], queries, k)
    second = _selected(matrix.added, mask[base:], queries, k)
    return widened(merged(first, _shifted(second, base), k), k)


def _scan_live(rows: Matrix32, live: NDArray[np.bool_], queries: Matrix32, k: int) -> Found:
    alive = int(np.count_nonzero(live))
    if not alive:
        return nothing(len(queries))
    if alive == len(rows):
        return nearest(queries, rows, min(k, alive))
    dead = len(rows) - alive
    if alive < dead:
        where = np.flatnonzero(live)
        scores, found = nearest(queries, rows[where], min(k, alive))
        return scores, where[found]
    fetch = min(len(rows), k + min(dead, 8 + 2 * k * dead // alive))
    scores, found = nearest(queries, rows, fetch)
    gone = ~live[found]
    order = np.argsort(gone, axis=1, kind="stable")[:, : min(k, alive)]
    scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
    # Queries near a removed region may have met more removed rows than were allowed for.
    short = np.flatnonzero(~live[found[:, -1]])
    if len(short):
        scores[short], found[short] = _selected(rows, live, queries[short], min(k, alive))
    return scores, found


def _selected(rows: Matrix32, mask: NDArray[np.bool_], queries: Matrix32, k: int) -> Found:
    k = min(k, int(np.count_nonzero(mask)))
    if not k:
        return nothing(len(queries))
    module = faiss()
    bits = np.packbits(mask, bitorder="little")
    selector = module.IDSelectorBitmap(bits)
    queries, pointer = np.ascontiguousarray(queries), module.swig_ptr
    scores = np.empty((len(queries), k), np.float32)
    found = np.empty((len(queries), k), np.int64)
    module.knn_inner_product(
        pointer(queries), pointer(rows), rows.shape[1], len(queries), len(rows), k,
        pointer(scores), pointer(found), selector,
    )  # fmt: skip
    return scores, found


def _shifted(found: Found, start: int) -> Found:
    return found[0], np.where(found[1] >= 0, found[1] + start, -1)
