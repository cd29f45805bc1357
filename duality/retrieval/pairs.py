"""Best lists and candidate pairs of everybody at once, from the vectors of both sides.

Reads:  asking vectors [Q, D], answering vectors [I, D], and which pairs were seen.
Cost:   a block of scores at a time, about 32 MB; two passes when items ask back.
Shapes: Q queries, I items, D dimensions, k slots, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

_BLOCK_CELLS = 8_000_000


def best_lists(
    asking: np.ndarray, answering: np.ndarray, seen: sparse.csr_matrix, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best unseen items of every query.

    Args:
        asking: float32 [Q, D].
        answering: float32 [I, D].
        seen: sparse bool [Q, I].
        k: list length; at most I are listed.

    Returns:
        Rows int64 [Q, k] and scores float32 [Q, k], best first; -1 and -inf where nothing is left.
    """
    rows = np.full((len(asking), k), -1, dtype=np.int64)
    scores = np.full((len(asking), k), -np.inf, dtype=np.float32)
    most = min(k, len(answering))
    for block in _blocks(len(asking), len(answering)):
        found = _scores(asking, answering, seen, block)
        best = np.argpartition(-found, most - 1, axis=1)[:, :most]
        value = np.take_along_axis(found, best, axis=1)
        order = np.lexsort((best, -value), axis=1)
        scores[block, :most] = np.take_along_axis(value, order, axis=1)
        rows[block, :most] = np.take_along_axis(best, order, axis=1)
    rows[np.isneginf(scores)] = -1
    return rows, scores


def pairs_of(lists: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists [Q, k] as pairs: query int64 [P], item int64 [P], score float64 [P]; padding left out."""
    query, place = np.nonzero(lists >= 0)
    return query, lists[query, place], scores[query, place].astype(np.float64)


def candidate_pairs(
    asking: np.ndarray,
    answering: np.ndarray,
    seen: sparse.csr_matrix,
    *,
    pool: int,
    wanted: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs worth considering from either end: best items of a query, best queries of an item.

    A floor can ask for an item that is in nobody's first `pool`; without the second kind of pairs
    it could not be met. Rare items share their best queries, which soon have no slot left, so each
    item also gets as many random queries (seeded).

    Args:
        pool: items per query.
        wanted: int64 [I], best queries per item, and random ones.

    Returns:
        query int64 [P], item int64 [P], score float64 [P], each pair once, by query.
    """
    parts = [pairs_of(*best_lists(asking, answering, seen, pool))]
    back = seen.T.tocsr()
    # Items of similar demand together: a block costs as much as its most demanding item.
    order = np.argsort(wanted, kind="stable")
    order = order[wanted[order] > 0]
    for block in _blocks(len(order), len(asking)):
        some = order[block]
        most = int(wanted[some].max())
        item, query, score = pairs_of(*best_lists(answering[some], asking, back[some], most))
        place = np.arange(len(item)) - np.searchsorted(item, item, side="left")
        kept = place < wanted[some[item]]
        parts.append((query[kept], some[item[kept]], score[kept]))
    parts.append(_random_pairs(asking, answering, seen, wanted))
    query, item, score = (np.concatenate(part) for part in zip(*parts, strict=True))
    first = np.unique(query * len(answering) + item, return_index=True)[1]
    return query[first], item[first], score[first]


def _random_pairs(
    asking: np.ndarray, answering: np.ndarray, seen: sparse.csr_matrix, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unseen pairs of each item with `wanted` random queries; as `pairs_of`, in no order."""
    item = np.repeat(np.arange(len(wanted)), wanted)
    query = np.random.default_rng(0).integers(0, max(len(asking), 1), len(item))
    if len(item):
        new = ~np.asarray(seen[query, item]).ravel().astype(bool)
        query, item = query[new], item[new]
    score = np.empty(len(item))
    for part in _blocks(len(item), asking.shape[1]):
        score[part] = np.einsum("pd,pd->p", asking[query[part]], answering[item[part]])
    return query, item, score


def _blocks(num_queries: int, num_items: int) -> Iterator[slice]:
    step = max(_BLOCK_CELLS // max(num_items, 1), 1)
    for start in range(0, num_queries, step):
        yield slice(start, min(start + step, num_queries))


def _scores(asking: np.ndarray, answering: np.ndarray, seen: sparse.csr_matrix, block: slice) -> np.ndarray:
    found = asking[block] @ answering.T
    met = seen[block]
    found[np.repeat(np.arange(len(found)), np.diff(met.indptr)), met.indices] = -np.inf
    return found


def as_lists(query: np.ndarray, item: np.ndarray, value: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Chosen pairs as lists, most valuable first: int64 [Q, k] for shape (Q, k), -1 pads.

    Raises:
        ValueError: a query has more than k pairs.
    """
    order = np.lexsort((item, -value, query))
    counts = np.bincount(query, minlength=shape[0])
    if counts.max(initial=0) > shape[1]:
        raise ValueError(f"a query has more than {shape[1]} pairs")
    lists = np.full(shape, -1, dtype=np.int64)
    place = np.arange(len(order)) - (np.cumsum(counts) - counts)[query[order]]
    lists[query[order], place] = item[order]
    return lists
