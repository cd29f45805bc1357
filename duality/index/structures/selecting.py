"""The k best rows for many queries at once: matrix products and one threshold per query.

FAISS keeps a heap per query, which for short lists of rows takes longer than their products. Here
the rows are dealt into groups; the k-th best of the groups' maxima is a score that k rows reach at
least, and mostly few more do. Those few are sorted.

Cost:   a third of FAISS's time on one core; one core only, however many there are.
Shapes: Q queries, N rows, D dimensions, k results.
"""

from __future__ import annotations

import numpy as np

from duality.index.faiss_module import faiss
from duality.index.structures.matrix import Matrix32
from duality.index.structures.products import products
from duality.index.structures.results import Found, merged

# Fewer queries, or fewer scores in all, do not repay a dozen calls of numpy.
QUERIES, SCORES = 8, 12_000
MAX_K = 128
# Cores with which FAISS is faster, unless there is so little to do that waking them takes longer.
CORES, LITTLE = 3, 1 << 19
# Scores at a time: 4 MB, which caches hold.
_BLOCK_QUERIES, _BLOCK_ROWS = 64, 16_384
# Groups per result: more of them take longer to sort, fewer let more rows pass.
_GROUPS = 8


def selecting_pays(queries: int, rows: int, k: int) -> bool:
    """Whether `select` is faster than FAISS for Q queries, N rows, k results."""
    scores = queries * rows
    if queries < QUERIES or scores < SCORES or not k <= min(MAX_K, rows // 4):
        return False
    return scores <= LITTLE or faiss().omp_get_max_threads() < CORES


def select(queries: Matrix32, rows: Matrix32, k: int) -> Found:
    """The k best rows [N, D] per query [Q, D] by inner product, all finite, k <= N; row numbers."""
    if len(queries) <= _BLOCK_QUERIES or len(queries) * len(rows) <= _BLOCK_QUERIES * _BLOCK_ROWS:
        return _select_block(queries, rows, k)
    parts = [
        _select_block(queries[start : start + _BLOCK_QUERIES], rows, k)
        for start in range(0, len(queries), _BLOCK_QUERIES)
    ]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([found for _, found in parts])


def _select_block(queries: Matrix32, rows: Matrix32, k: int) -> Found:
    found = best_columns(products(queries, rows[:_BLOCK_ROWS]), k)
    for start in range(_BLOCK_ROWS, len(rows), _BLOCK_ROWS):
        scores, columns = best_columns(products(queries, rows[start : start + _BLOCK_ROWS]), k)
        found = merged(found, (scores, np.where(columns >= 0, columns + start, -1)), k)
    return found


def best_columns(scores: Matrix32, k: int) -> Found:
    """The k largest of each row of finite scores [Q, N], and their columns; of equals, the first.

    A row of fewer than k columns is padded with -inf and -1.
    """
    number, width = scores.shape
    hits = np.flatnonzero(scores >= _reached(scores, k)[:, None])
    rows = hits // width
    hit_by = np.bincount(rows, minlength=number)
    most = max(int(hit_by.max()), k)
    # Where each hit goes in a table of `most` columns.
    places = np.arange(len(hits)) + np.repeat(most * np.arange(number) - (hit_by.cumsum() - hit_by), hit_by)
    kept = np.full((number, most), np.inf, np.float32)
    columns = np.full((number, most), -1, np.int64)
    kept.ravel()[places] = -scores.ravel()[hits]
    columns.ravel()[places] = hits - rows * width
    order = np.argsort(kept, axis=1, kind="stable")[:, :k] + most * np.arange(number)[:, None]
    return -kept.take(order), columns.take(order)


def _reached(scores: Matrix32, k: int) -> Matrix32:
    """A score that at least k of each row's columns reach, float32 [Q]; -inf where there are no k."""
    number, width = scores.shape
    if width <= k:
        return np.full(number, -np.inf, np.float32)
    size = max(1, width // (_GROUPS * k))
    groups = width // size
    best = scores[:, : size * groups].reshape(number, size, groups).max(axis=1)
    best.sort(axis=1)
    return best[:, groups - k]
