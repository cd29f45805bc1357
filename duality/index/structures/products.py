"""Inner products of many pairs that leave the cores to FAISS.

Hazard: the threads of numpy's BLAS go on spinning for milliseconds after a product, and FAISS's own
        threads then wait for a core: filtered batches took five times as long. BLAS computes small
        products on the calling thread, so larger ones are cut into such, unless FAISS has one thread too.

Shapes: Q queries, N rows, D dimensions.
"""

from __future__ import annotations

import numpy as np

from duality.index.faiss_module import faiss
from duality.index.structures.matrix import Matrix32

# OpenBLAS stays on one thread up to so many multiplications; long, thin pieces would waste its copies.
SINGLE, TOGETHER = 65_536 * 4, 64


def products(queries: Matrix32, rows: Matrix32) -> Matrix32:
    """float32 [Q, N] of queries [Q, D] and rows [N, D]."""
    if len(queries) == 1:
        return (rows @ queries[0])[None, :]
    if faiss().omp_get_max_threads() == 1:
        return queries @ rows.T
    result = np.empty((len(queries), len(rows)), np.float32)
    width = max(1, SINGLE // (TOGETHER * max(queries.shape[1], 1)))
    for first in range(0, len(queries), TOGETHER):
        block = slice(first, first + TOGETHER)
        for start in range(0, len(rows), width):
            piece = slice(start, start + width)
            np.matmul(queries[block], rows[piece].T, out=result[block, piece])
    return result
