"""Candidates from one side for query vectors: the best k, or a seeded sample that favours the best.

Shapes: Q queries, k results per query, D dimensions, P candidates in the sampling pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from duality.errors import InputError
from duality.retrieval.sampling import draw

# Sampling draws from this many times k candidates: the tail beyond has next to no chance at
# temperatures for which sampling is sensible.
POOL_FACTOR, POOL_LEAST = 20, 500

Results = tuple[NDArray[np.object_], NDArray[np.float32]]


class Searchable(Protocol):
    """What retrieval needs of an index side."""

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[Sequence[str]] | None = None,
        exact: bool = False,
    ) -> Results: ...


@dataclass(frozen=True, eq=False)
class Sampled:
    """A draw without replacement per query, highest score first; None, -inf and 0 pad.

    Attributes:
        ids: object [Q, k] of str.
        scores: float32 [Q, k].
        draw_probability: float64 [Q, k], p: softmax(score / temperature) over the pool.
        inclusion_probability: float64 [Q, k], q: the chance of being in the draw, given its
            threshold. p / q weighs what was shown; see `retrieval/sampling.py`.
        candidates: int64 [Q], how many records the probabilities are normalised over.
    """

    ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    draw_probability: NDArray[np.float64]
    inclusion_probability: NDArray[np.float64]
    candidates: NDArray[np.int64]


def retrieve(
    side: Searchable,
    vectors: NDArray[np.float32],
    k: int = 10,
    *,
    where: str | None = None,
    exclude: Sequence[Sequence[str]] | None = None,
    temperature: float | None = None,
    seed: int = 0,
    exact: bool = False,
) -> Results:
    """Records of a side for each query.

    Args:
        side: index.side.Side or the like.
        vectors: float32 [Q, D].
        k: results per query.
        where: filter over attributes.
        exclude: per query, ids that must not be returned.
        temperature: None for the best k, else a draw; see `retrieve_sample`.
        seed: makes the draw repeatable.
        exact: score every record instead of using the search structure.

    Returns:
        ids object [Q, k] and scores float32 [Q, k], highest score first; None and -inf pad.

    Raises:
        InputError: temperature is not a positive number.
    """
    if temperature is None:
        return side.search(vectors, k, where, exclude, exact)
    drawn = retrieve_sample(
        side, vectors, k, temperature=temperature, where=where, exclude=exclude, seed=seed, exact=exact
    )
    return drawn.ids, drawn.scores


def retrieve_sample(
    side: Searchable,
    vectors: NDArray[np.float32],
    k: int = 10,
    *,
    temperature: float,
    where: str | None = None,
    exclude: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
    keys: Sequence[str] | None = None,
    pool: int | None = None,
    exact: bool = False,
) -> Sampled:
    """A draw of k records per query, without replacement, from softmax(score / temperature).

    The softmax is over the pool: the best `pool` records that the filter and `exclude` leave. A
    pool as large as the side, searched with `exact`, is the softmax over everything.

    Args:
        side, vectors, k, where, exclude, exact: as `retrieve`.
        temperature: > 0, in units of scores.
        seed: same seed and key, same draw, whatever else is in the batch.
        keys: who asks, one per query; None takes the query vector itself, so that equal vectors
            draw alike.
        pool: candidates per query; None takes max(500, 20 k).

    Raises:
        InputError: temperature is not a positive number, or the pool is smaller than k.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature {temperature}: give a number above 0")
    wanted = max(POOL_LEAST, POOL_FACTOR * k) if pool is None else pool
    if wanted < k:
        raise InputError(f"a pool of {wanted} candidates cannot give {k}: enlarge it or ask for fewer")
    ids, scores = side.search(vectors, wanted, where, exclude, exact)
    asking = [row.tobytes() for row in np.ascontiguousarray(vectors)] if keys is None else keys
    drawn = draw(scores, k, temperature, seed, asking)
    return Sampled(
        np.take_along_axis(ids, drawn.columns, 1),
        np.take_along_axis(scores, drawn.columns, 1),
        drawn.draw_probability,
        drawn.inclusion_probability,
        np.isfinite(scores).sum(axis=1),
    )
