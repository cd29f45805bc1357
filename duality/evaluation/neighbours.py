"""Neighbourhood baseline: cosine between rows of the asked side, summed over the history.

For user-to-item this is ItemKNN: an item scores the similarities to the items of the user's
visible history. For item-to-user it is its transpose, UserKNN: a user scores the similarities
to the users whom the item visibly had before the query.

Similarity is fitted on training pairs, `co / (sqrt(n_a * n_b) + shrink)` with `co` the number
of shared neighbours on the other side; each row keeps its `neighbours` largest. What has no
similarity at all comes below everything else, by popularity, at -1 to 0: ties would count
against the target and make a sparse log's baseline look worse than it is.

Cost:   fitting takes one sparse product, row block by row block, without the [N, N] array.
Shapes: B queries of a block, N rows of the asked side.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from duality.evaluation.baselines import check_fitted
from duality.evaluation.past import Histories
from duality.evaluation.queries import USER_TO_ITEM, Queries, World, pair_matrix
from duality.evaluation.ranking import blocks


class NearestNeighbours:
    """ItemKNN (`item_knn`) or UserKNN (`user_knn`), by direction.

    Args:
        world: similarities come from its training events, histories from its visible ones.
        direction: what is asked for.
        neighbours: similar rows kept per row.
        shrink: added to the denominator; larger values trust rare rows less.
    """

    def __init__(self, world: World, direction: str, *, neighbours: int = 200, shrink: float = 10.0) -> None:
        self.direction = direction
        self.name = "item_knn" if direction == USER_TO_ITEM else "user_knn"
        self.similarity = cosine_neighbours(pair_matrix(world, world.train, direction), neighbours, shrink)
        self.histories = Histories(world, direction)
        counts = np.bincount(
            world.event_ends(direction)[1][world.train], minlength=world.num_targets(direction)
        )
        self.tie_break = (counts / (counts.max(initial=0) + 1.0) - 1.0).astype(np.float32)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """Similarities summed over the query's visible history: float32 [B, N]."""
        check_fitted(self.direction, direction, self.name)
        scores = (self.histories.rows(queries, rows, direction) @ self.similarity).toarray()
        return np.where(scores > 0, scores, self.tie_break)


def cosine_neighbours(pairs: sparse.csr_matrix, neighbours: int, shrink: float) -> sparse.csr_matrix:
    """Largest shrunk cosines between the columns of `pairs`.

    Args:
        pairs: sparse bool [S, N].
        neighbours: entries kept per row; zeros and the diagonal are never kept.
        shrink: see the module.

    Returns:
        Sparse float32 [N, N]; row a holds the neighbours of column a.
    """
    left = pairs.astype(np.float32).T.tocsr()
    right = left.T.tocsr()
    norms = np.sqrt(np.diff(left.indptr)).astype(np.float32)
    parts = [
        _top_of_block(left[rows] @ right, rows, norms, neighbours, shrink)
        for rows in blocks(left.shape[0], left.shape[0])
    ]
    return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, 0), dtype=np.float32)


def _top_of_block(
    shared: sparse.csr_matrix, rows: slice, norms: np.ndarray, neighbours: int, shrink: float
) -> sparse.csr_matrix:
    """Neighbours of columns rows.start..rows.stop from their shared counts [B, N]."""
    row = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
    column = shared.indices
    value = shared.data / (norms[row + rows.start] * norms[column] + np.float32(shrink))
    keep = (column != row + rows.start) & (value > 0)
    row, column, value = row[keep], column[keep], value[keep]
    keep = _among_largest(row, value, shared.shape[0], neighbours)
    return sparse.csr_matrix((value[keep], (row[keep], column[keep])), shape=shared.shape)


def _among_largest(row: np.ndarray, value: np.ndarray, num_rows: int, n: int) -> np.ndarray:
    """Whether each entry is among the n largest of its row, bool [entries]; `row` ascends."""
    counts = np.bincount(row, minlength=num_rows)
    keep = np.ones(len(row), dtype=bool)
    crowded = np.flatnonzero(counts[row] > n)
    order = crowded[np.lexsort((-value[crowded], row[crowded]))]
    counts = np.where(counts > n, counts, 0)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep[order[place >= n]] = False
    return keep
