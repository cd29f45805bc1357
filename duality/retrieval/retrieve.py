"""Candidates from one side for query vectors: the best k, or a seeded sample that favours the best.

Shapes: Q queries, k results per query, D dimensions, P candidates in the sampling pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from duality.errors import InputError

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
        temperature: None for the best k. Else k are drawn without replacement from
            softmax(score / temperature) over the best max(500, 20 k); > 0, in units of scores.
        seed: makes the draw repeatable.
        exact: score every record instead of using the search structure.

    Returns:
        ids object [Q, k] and scores float32 [Q, k], highest score first; None and -inf pad.

    Raises:
        InputError: temperature is not a positive number.
    """
    if temperature is None:
        return side.search(vectors, k, where, exclude, exact)
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature {temperature}: give a number above 0")
    pool = max(POOL_LEAST, POOL_FACTOR * k)
    ids, scores = side.search(vectors, pool, where, exclude, exact)
    chosen = sample(scores, k, temperature, seed)
    return np.take_along_axis(ids, chosen, 1), np.take_along_axis(scores, chosen, 1)


def sample(scores: NDArray[np.float32], k: int, temperature: float, seed: int) -> NDArray[np.int64]:
    """Draw k columns per row without replacement from softmax(scores / temperature).

    Args:
        scores: [Q, P], highest first; -inf is never drawn before a finite score.

    Returns:
        Columns int64 [Q, min(k, P)], ascending, hence highest score first.

    The k largest of score / temperature + Gumbel noise are such a draw (Kool et al., 2019).
    """
    noise = np.random.default_rng(seed).gumbel(size=scores.shape)
    keys = scores.astype(np.float64) / temperature + noise
    return np.sort(np.argsort(-keys, axis=1, kind="stable")[:, :k], axis=1)
