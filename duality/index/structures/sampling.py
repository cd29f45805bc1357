"""How deep the matches of a filter lie below a query, guessed from a sample of the vectors.

A filter that has nothing to do with the query makes its k best matches the k / share nearest
vectors. One that excludes what is near the query puts them far deeper, and no count of matches
tells: it takes scores.

Shapes: S sample vectors, Q queries, M matches, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.candidates import Candidates
from duality.index.structures.matrix import Keys, Matrix, Matrix32
from duality.index.structures.products import products

SIZE = 1_024
# The depth is read off at this many of the best matches in the sample: fewer are chance.
LOOKED_AT = 8
# Deeper than independence would have it by this factor is no chance any more.
SURELY_DEEPER = 4.0
ROOM = 4.0
# With fewer matches in the sample nothing is seen; so much deeper than evenly is assumed.
UNSEEN = 4.0


@dataclass(frozen=True)
class Sample:
    """Vectors drawn at random.

    Args:
        positions: int64 [S].
        vectors: float32 [S, D].
        size: positions there were when it was drawn.
    """

    positions: Keys
    vectors: Matrix32
    size: int

    def outgrown(self, size: int) -> bool:
        """Whether much has been added since."""
        return 4 * size > 5 * self.size


def draw(matrix: Matrix, positions: Keys) -> Sample:
    """A new sample of `positions`; the same for the same contents."""
    chosen = np.random.default_rng(1).choice(len(positions), min(SIZE, len(positions)), replace=False)
    chosen = positions[np.sort(chosen)]
    return Sample(chosen, matrix.rows(chosen), len(matrix))


def evenly(k: int, matches: int, count: int) -> float:
    """How deep the k-th best match lies, if matches lie evenly, with room for chance."""
    return min(k * count / max(matches, 1) * (1 + 2 / k**0.5), float(count))


def depths(
    sample: Sample, queries: Matrix32, k: int, candidates: Candidates, count: int
) -> NDArray[np.float64]:
    """About how many vectors score at least as high as the k-th best match, float64 [Q].

    Args:
        sample: of those vectors, matches among them.
        queries: float32 [Q, D].
        k: results wanted, 1 <= k <= M.
        candidates: the matches.
        count: vectors that the sample stands for.
    """
    expected = evenly(k, len(candidates), count)
    matching = candidates.mask[sample.positions]
    number = int(np.count_nonzero(matching))
    if number < LOOKED_AT:
        return np.full(len(queries), min(UNSEEN * expected, float(count)))
    scores = products(queries, sample.vectors)
    best = np.partition(scores[:, matching], number - LOOKED_AT, axis=1)[:, number - LOOKED_AT]
    above = (scores >= best[:, None]).sum(axis=1)
    deeper = above * number / (LOOKED_AT * len(matching))
    # Such matches end in a crowd of nearly equal scores: room to meet all of it.
    seen = np.where(deeper > SURELY_DEEPER, ROOM * above * count / len(matching), 0.0)
    return np.minimum(np.maximum(expected * np.maximum(deeper, 1.0), seen), float(count))
