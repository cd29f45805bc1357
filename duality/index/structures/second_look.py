"""After a filtered search: which lists that were not visited probably hold something better.

No count of matches tells how far from the query they lie: a filter may exclude all that is near. What
was found does: a list is worth a visit if its matches are likely to beat the k-th result. Their
scores are taken as normal around the centroid's, with the spread that residuals have in the query's
direction; lists are left out as long as all of them together may hold a small part of k only.

Shapes: Q queries, L lists, S sampled vectors, D dimensions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.candidates import Candidates
from duality.index.structures.coarse import Nearness
from duality.index.structures.matrix import Keys, Matrix32
from duality.index.structures.probing import matches_per_list
from duality.index.structures.products import products

if TYPE_CHECKING:
    from duality.index.structures.ivf import Ivf

# Share of the k results that the lists left out may hold at most; mostly they hold far less.
LOSS = 0.1
# So many spreads below the k-th result, all of 10^8 matches together are expected to give 0.2 of one.
FARTHEST = 6.0
STEPS = (8.0, 64.0)


def missing_lists(
    structure: Ivf,
    queries: Matrix32,
    k: int,
    candidates: Candidates,
    near: Nearness,
    visited: Keys,
    worst: NDArray[np.float32],
) -> Keys | None:
    """Lists worth visiting, int64 [Q, W], -1 for none; None when no query has any.

    Args:
        structure: the lists.
        queries: float32 [Q, D].
        k: results wanted.
        candidates: the matches.
        near: how near the lists are to the queries.
        visited: lists visited already, int64 [Q, V], -1 for none.
        worst: score of the k-th result, float32 [Q]; -inf when there are fewer.
    """
    matching = matches_per_list(structure, candidates)
    if len(queries) == 1:
        lists = _missing_of_one(structure, queries[0], k, matching, near, visited[0], float(worst[0]))
        return lists[None] if len(lists) else None
    above = near.products()
    np.subtract(worst[:, None], above, out=above)
    variance = (products(queries, structure.scatter()) * queries).sum(axis=1)
    above /= np.sqrt(variance + np.float32(1e-30))[:, None]
    expected = _tail(above)
    expected *= matching
    rows = np.arange(len(queries))[:, None]
    expected[rows, np.where(visited >= 0, visited, visited[:, :1])] = 0.0
    short = (expected.sum(axis=1) > LOSS * k).nonzero()[0]
    if not len(short):
        return None
    wanted = np.zeros(expected.shape, np.bool_)
    wanted[short] = _worth_a_visit(expected[short], LOSS * k, int(np.count_nonzero(matching)))
    return _rows_of(wanted)


def _missing_of_one(
    structure: Ivf,
    query: Matrix32,
    k: int,
    matching: Matrix32,
    near: Nearness,
    visited: Keys,
    worst: float,
) -> Keys:
    """As `missing_lists`, for one query [D], with arithmetic for few lists only: int64 [W]."""
    spread = math.sqrt(float(query @ (structure.scatter() @ query)) + 1e-30)
    above = near.products()[0]
    above[visited[visited >= 0]] = -np.inf
    lists = (above > worst - FARTHEST * spread).nonzero()[0]
    if not len(lists):
        return lists
    expected = _tail((worst - above[lists]) / np.float32(spread)) * matching[lists]
    if expected.sum() <= LOSS * k:
        return lists[:0]
    wanted = _worth_a_visit(expected[None], LOSS * k, int(np.count_nonzero(matching)))
    return lists[wanted[0]]


def _worth_a_visit(expected: NDArray[np.float32], loss: float, lists: int) -> NDArray[np.bool_]:
    """Few lists [Q, L] such that the others are expected to hold at most `loss` together.

    A threshold per query, out of some: sorting the lists takes longer than visiting a few more.
    """
    wanted = expected > loss / max(lists, 1)
    for step in STEPS:
        above = expected > step * loss / max(lists, 1)
        enough = np.where(above, np.float32(0), expected).sum(axis=1) <= loss
        wanted[enough] = above[enough]
    return wanted


def _rows_of(wanted: NDArray[np.bool_]) -> Keys:
    """Where each row of bool [Q, L] is true, int64 [Q, W], padded with -1."""
    rows, columns = np.nonzero(wanted)
    numbers = np.bincount(rows, minlength=len(wanted))
    lists = np.full((len(wanted), max(1, int(numbers.max(initial=0)))), -1, np.int64)
    lists[rows, np.arange(len(rows)) - np.repeat(numbers.cumsum() - numbers, numbers)] = columns
    return lists


def _tail(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of a normal distribution above z, to 4%; a half below the mean. Overwrites z."""
    np.maximum(z, np.float32(0), out=z)
    np.minimum(z, np.float32(12), out=z)
    power = np.float32(-0.416) * z
    power -= np.float32(0.717)
    power *= z
    np.exp(power, out=power)
    power *= np.float32(0.5)
    return power
