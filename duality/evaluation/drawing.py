"""Candidates drawn without replacement from what a query has not seen, by any sampler.

Reads:  a sampler's distribution, the forbidden rows of each query.
Trades: rejection, whose cost does not grow with the catalogue, for a pass over the catalogue where
        nearly all of it is wanted.

Shapes: Q queries, N rows of the asked side, n rows wanted per query.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.samplers import Ids, Sampler

RACE_AFTER = 16  # rounds of rejection before the last rows are drawn by an exponential race
RACE_CELLS = 2_500_000


def draw_unseen(
    sampler: Sampler, indptr: Ids, indices: NDArray[Any], n: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """n distinct rows for each query, none of them among the query's forbidden ones.

    Draws are taken one after another and skipped when they are forbidden or known, which is
    sampling without replacement with chances proportional to the sampler's probabilities.

    Args:
        sampler: one that needs no context.
        indptr, indices: forbidden rows of each query as a CSR pattern, [Q + 1] and [nnz]; distinct
            within a query.
        n: rows wanted per query.

    Returns:
        int32 [Q, n] in the order drawn; -1 fills the end where fewer can be drawn.

    Cost: a few draws per row wanted, whatever N is; a race over all N rows where nearly all are wanted.
    """
    size, num_queries = sampler.size, len(indptr) - 1
    owner = np.repeat(np.arange(num_queries), np.diff(indptr))
    drawable = np.isfinite(sampler.log_prob(np.arange(size)))
    blocked = np.bincount(owner, weights=drawable[indices], minlength=num_queries).astype(np.int64)
    want = np.minimum(n, drawable.sum() - blocked)
    out = np.full((num_queries, n), -1, dtype=np.int32)
    filled = np.zeros(num_queries, dtype=np.int64)
    known = np.sort(owner * size + indices)
    for _ in range(RACE_AFTER):
        rows = np.flatnonzero(filled < want)
        if not len(rows):
            return out
        drawn = sampler.draw(len(rows) * n, rng)[0].reshape(len(rows), n)
        keys = rows[:, None] * size + drawn
        fresh = _first_of_each(keys) & ~_contains(known, keys)
        place = filled[rows, None] + np.cumsum(fresh, axis=1) - 1
        taken = fresh & (place < want[rows, None])
        out[np.broadcast_to(rows[:, None], taken.shape)[taken], place[taken]] = drawn[taken]
        filled[rows] += taken.sum(axis=1)
        known = np.sort(np.concatenate((known, keys[taken])))
    _race(sampler, known, want, filled, out, rng)
    return out


def _first_of_each(keys: Ids) -> NDArray[np.bool_]:
    first = np.zeros(keys.size, dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first.reshape(keys.shape)


def _contains(ascending: Ids, keys: Ids) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(keys.shape, dtype=bool)
    place = np.searchsorted(ascending, keys).clip(max=len(ascending) - 1)
    return ascending[place] == keys


def _race(
    sampler: Sampler, known: Ids, want: Ids, filled: Ids, out: NDArray[np.int32], rng: np.random.Generator
) -> None:
    """Fill the rows still short with the first arrivals of exponential clocks, as rejection would."""
    size, rate = sampler.size, np.exp(sampler.log_prob(np.arange(sampler.size)))
    short = np.flatnonzero(filled < want)
    for rows in np.array_split(short, max(1, len(short) * size // RACE_CELLS)):
        with np.errstate(divide="ignore"):
            arrival = rng.standard_exponential((len(rows), size)) / rate
        inside = known[np.isin(known // size, rows)]
        arrival[np.searchsorted(rows, inside // size), inside % size] = np.inf
        order = np.argsort(arrival, axis=1)[:, : out.shape[1]].astype(np.int32)
        rank = np.arange(order.shape[1])
        missing = (want - filled)[rows]
        take = rank < missing[:, None]
        at = np.broadcast_to(filled[rows][:, None] + rank, take.shape)
        out[np.broadcast_to(rows[:, None], take.shape)[take], at[take]] = order[take]
