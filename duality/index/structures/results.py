"""Lists of results: ordering, merging, padding.

Shapes: Q queries, k results, R results before a cut.
"""

from __future__ import annotations

import numpy as np

from duality.index.structures.matrix import Keys, Matrix32

# Scores float32 and keys (or positions) int64, both [Q, k], best first; -inf and -1 pad.
Found = tuple[Matrix32, Keys]


def nothing(queries: int) -> Found:
    """No results for each of `queries`."""
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def ordered(scores: Matrix32, keys: Keys) -> Found:
    """Equal scores by ascending key, so that answers do not depend on the structure.

    Args:
        scores: float32 [Q, k], each row descending.
        keys: int64 [Q, k].
    """
    tied = scores[:, 1:] == scores[:, :-1]
    # any() takes a microsecond longer, which counts where one query is asked.
    if not np.count_nonzero(tied):
        return scores, keys
    rows = np.flatnonzero(tied.any(axis=1))
    order = np.lexsort((keys[rows], -scores[rows]), axis=-1)
    scores[rows] = np.take_along_axis(scores[rows], order, 1)
    keys[rows] = np.take_along_axis(keys[rows], order, 1)
    return scores, keys


def best(scores: Matrix32, positions: Keys, k: int) -> Found:
    """The k best of R results a query, best first; positions of -1 count as nothing."""
    scores = np.where(positions >= 0, scores, np.float32(-np.inf))
    if scores.shape[1] > 4 * k:
        part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, positions = _columns(scores, positions, part)
    return _columns(scores, positions, np.argsort(-scores, axis=1, kind="stable")[:, :k])


def _columns(scores: Matrix32, positions: Keys, columns: Keys) -> Found:
    """The given columns [Q, n] of each row."""
    # take_along_axis takes 4 µs longer, which counts where one query is asked.
    places = columns + np.arange(len(scores))[:, None] * scores.shape[1]
    return scores.take(places), positions.take(places)


def merged(first: Found, second: Found, k: int) -> Found:
    """The k best of two result lists over different positions."""
    return best(np.hstack([first[0], second[0]]), np.hstack([first[1], second[1]]), k)


def widened(found: Found, k: int) -> Found:
    """Padded to k columns."""
    missing = k - found[0].shape[1]
    if missing <= 0:
        return found
    pads = ((0, 0), (0, missing))
    scores = np.pad(found[0], pads, constant_values=-np.inf)
    return scores, np.pad(found[1], pads, constant_values=-1)
