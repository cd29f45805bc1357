"""After a filtered search: which lists that were not visited probably hold something better.

No count of matches tells how far from the query they lie: a filter may exclude all that is near. What
was found does: a list is worth a visit if its matches are likely to beat the k-th result. Their
scores are taken as normal around the centroid's, with the spread that residuals have in the query's
direction; lists are left out as long as all of them together may hold a small part of k only.

Shapes: Q queries, L lists, S sampled vectors, D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.candidates import Candidates
from duality.index.structures.matrix import Keys, Matrix32
from duality.index.structures.probing import matches_per_list

if TYPE_CHECKING:
    from duality.index.structures.ivf import Ivf

# Share of the k results that the lists left out may hold at most; mostly they hold far less.
LOSS = 0.1


def missing_lists(
    structure: Ivf,
    queries: Matrix32,
    k: int,
    candidates: Candidates,
    visited: Keys,
    worst: NDArray[np.float32],
) -> Keys:
    """Lists worth visiting, int64 [Q, W], -1 for none.

    Args:
        structure: the lists.
        queries: float32 [Q, D].
        k: results wanted.
        candidates: the matches.
        visited: lists visited already, int64 [Q, V], -1 for none.
        worst: score of the k-th result, float32 [Q]; -inf when there are fewer.
    """
    matching = matches_per_list(structure, candidates)
    centroids = structure.coarse.centroids[:, :-1]
    spread = np.sqrt(np.mean(np.square(structure.residuals() @ queries.T), axis=0)) + np.float32(1e-30)
    above = (worst[:, None] - queries @ centroids.T) / spread[:, None]
    expected = matching.astype(np.float32) * _tail(above)
    rows = np.arange(len(queries))[:, None]
    expected[rows, np.where(visited >= 0, visited, visited[:, :1])] = 0.0
    # Below this, all lists together stay within the loss; no need to sort them.
    return _rows_of(expected > LOSS * k / max(int(np.count_nonzero(matching)), 1))


def _rows_of(wanted: NDArray[np.bool_]) -> Keys:
    """Where each row of bool [Q, L] is true, int64 [Q, W], padded with -1."""
    rows, columns = np.nonzero(wanted)
    numbers = np.bincount(rows, minlength=len(wanted))
    lists = np.full((len(wanted), max(1, int(numbers.max(initial=0)))), -1, np.int64)
    lists[rows, np.arange(len(rows)) - np.repeat(numbers.cumsum() - numbers, numbers)] = columns
    return lists


def _tail(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of a normal distribution above z, to 4%; a half below the mean."""
    z = np.clip(z, np.float32(0), np.float32(12))
    return np.float32(0.5) * np.exp(np.float32(-0.717) * z - np.float32(0.416) * z * z)
