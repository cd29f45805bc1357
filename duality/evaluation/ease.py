"""EASE: every item as a weighted sum of the others, in closed form, for both directions.

The weights W minimise |X - X W|² + λ|W|² with a zero diagonal, X the training pairs [U, I]. With P the
inverse of XᵀX + λ that is W[i, j] = -P[i, j] / P[j, j]. A user scores item j with the sum of W[i, j] over
the items i of their visible history; for item-to-user every user does, each with the items that they had
met strictly before the query. Equal scores (a row without history or training event) go by popularity.

Source: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", equation 8.

Cost:   a fit takes three float32 [I, I] arrays (1.5 GB for 11,000 items) and about I³ multiplications; a
        block of item-to-user queries takes one sparse product over all visible pairs.
Shapes: U users, I items, B queries of a block, N rows of the asked side, M visible pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from duality import metrics
from duality.errors import InputError
from duality.evaluation.baselines import check_fitted
from duality.evaluation.past import Histories
from duality.evaluation.queries import USER_TO_ITEM, Queries, World, pair_matrix
from duality.evaluation.ranking import blocks, rank_full

REGULARISATIONS = (100.0, 250.0, 500.0, 1000.0, 2000.0)
UNCHOSEN = 500.0  # where no validation query can choose
MOST_ITEMS = 5_000  # beyond, `duality evaluate` leaves it out: at 10,500 the grid took 214 s on one busy core
_TIE_BREAK = 1e-6
_WINDOW_CELLS = 8_000_000


class EASE:
    """Item weights from training pairs, applied to visible histories.

    Args:
        world: weights come from its training events, histories from its visible ones.
        direction: what is asked for.
        regularisation: λ, in pairs; above 0.

    Raises:
        InputError: λ is not above 0, or too small for float32.
    """

    name = "ease"

    def __init__(self, world: World, direction: str, regularisation: float = UNCHOSEN) -> None:
        self.direction, self.regularisation = direction, regularisation
        self.weights = item_weights(pair_matrix(world, world.train, USER_TO_ITEM), regularisation)
        self._past = Histories(world, direction) if direction == USER_TO_ITEM else Meetings(world)
        counts = np.bincount(
            world.event_ends(direction)[1][world.train], minlength=world.num_targets(direction)
        )
        self._tie_break = (_TIE_BREAK * counts / (counts.max(initial=0) + 1.0)).astype(np.float32)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, N]."""
        check_fitted(self.direction, direction, self.name)
        if isinstance(self._past, Histories):
            return self._past.rows(queries, rows, direction) @ self.weights + self._tie_break
        columns = self.weights[:, queries.item[rows]]
        moments = None if queries.time is None else queries.time[rows]
        return self._past.sums(columns, moments).T + self._tie_break


class Meetings:
    """Visible pairs in the order in which they first met."""

    def __init__(self, world: World) -> None:
        events = np.flatnonzero(world.visible)
        if world.event_time is not None:
            events = events[np.argsort(world.event_time[events], kind="stable")]
        pair = world.event_user[events].astype(np.int64) * world.num_items + world.event_item[events]
        met = events[np.sort(np.unique(pair, return_index=True)[1])]
        self._user, self._item = world.event_user[met], world.event_item[met]
        self._time = None if world.event_time is None else world.event_time[met]
        self._shape = world.num_users, world.num_items

    def sums(self, columns: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
        """Sum of a column's values over the items that each user met strictly before its moment.

        Args:
            columns: float32 [I, B].
            moments: int64 [B], or None to sum over all visible pairs.

        Returns:
            float32 [U, B].
        """
        ends = np.full(columns.shape[1], len(self._user))
        if moments is not None and self._time is not None:
            ends = np.searchsorted(self._time, moments, side="left")
        everywhere, last = int(ends.min(initial=len(self._user))), int(ends.max(initial=0))
        before = slice(0, everywhere)
        sums = _ones(self._user[before], self._item[before], self._shape) @ columns
        step = max(_WINDOW_CELLS // max(columns.shape[1], 1), 1)
        for start in range(everywhere, last, step):
            place = np.arange(start, min(start + step, last))
            values = columns[self._item[place]] * (place[:, None] < ends)
            sums += _ones(self._user[place], place - start, (self._shape[0], len(place))) @ values
        return sums


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)


def item_weights(pairs: sparse.csr_matrix, regularisation: float) -> np.ndarray:
    """W of the module header, float32 [I, I], with a zero diagonal.

    Args:
        pairs: sparse bool [U, I].
        regularisation: λ.

    Raises:
        InputError: λ is not above 0, or too small for float32.
    """
    if not regularisation > 0:
        raise InputError(f"ease: regularisation {regularisation}: give a number above 0, e.g. 500")
    weights = _inverse(_shared(pairs), regularisation)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return weights


def _shared(pairs: sparse.csr_matrix) -> np.ndarray:
    """Users that each two items share, float32 [I, I]; filled in blocks, a sparse one would be larger."""
    users = pairs.astype(np.float32)
    left, items = users.T.tocsr(), pairs.shape[1]
    shared = np.empty((items, items), np.float32)
    for rows in blocks(items, items):
        shared[rows] = (left[rows] @ users).toarray()
    return shared


def _inverse(shared: np.ndarray, regularisation: float) -> np.ndarray:
    """Inverse of `shared` + λ by Cholesky, float32 [I, I]; overwrites `shared`."""
    np.fill_diagonal(shared, shared.diagonal() + np.float32(regularisation))
    # The transpose of a symmetric array is itself, in the order that LAPACK overwrites without a copy.
    factor, failed = lapack.spotrf(shared.T, lower=True, overwrite_a=True)
    if failed:
        raise InputError(
            f"ease: regularisation {regularisation} is too small for this log: give a larger one"
        )
    inverse = np.tril(lapack.spotri(factor, lower=True, overwrite_c=True)[0])
    inverse += np.tril(inverse, -1).T
    return inverse


def choose_regularisation(
    world_validation: World,
    queries_validation: Queries,
    direction: str,
    regularisations: Sequence[float] = REGULARISATIONS,
) -> float:
    """The λ with the best NDCG@10 on validation queries; the first of equals, 500 without a query.

    Cost: a fit for each.
    """
    if not len(queries_validation):
        return UNCHOSEN

    def quality(regularisation: float) -> float:
        scorer = EASE(world_validation, direction, regularisation)
        ranks, _ = rank_full(scorer, queries_validation, world_validation, direction)
        return float(metrics.ndcg(ranks, 10).mean())

    return max(regularisations, key=quality)
