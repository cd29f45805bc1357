"""How much of a trained item's vector comes from its users, chosen on validation.

An item's row of the table has seen every event of the training, the vector that G makes generalises from
users to users. Their mixture (1 - share) e + share g is one vector that serves both directions and
moves when new users come. Where events are many the table wins and the share is 0.

Shapes: B queries of a block, I items, U users.
"""

from __future__ import annotations

import math

import numpy as np

from duality.embeddings import stored_ends
from duality.evaluation.pools import pools_for
from duality.evaluation.queries import DIRECTIONS, USER_TO_ITEM, Queries, World
from duality.evaluation.ranking import rank_pools
from duality.workflows.biases import geometric_mean
from duality.workflows.scorers import States

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def choose_share(
    states: States, world: World, asked: dict[str, Queries]
) -> tuple[float, dict[float, tuple[float, ...]]]:
    """The share that gains most and costs neither direction anything, and every share's quality.

    Quality is the geometric mean of `JUDGED`, by direction in the order of DIRECTIONS; item to user counts with
    time-matched candidates where there is time. What gains most has the highest product of both.

    Args:
        states: of the model after training, its biases 0.
        world: what may be known on validation.
        asked: validation queries by direction.
    """
    parts = [_qualities(states, world, asked[direction], direction) for direction in DIRECTIONS]
    found = dict(zip(SHARES, zip(*parts, strict=True), strict=True))
    free = [s for s in SHARES if all(now >= was for now, was in zip(found[s], found[0.0], strict=True))]
    return max(free, key=lambda share: (math.prod(found[share]), -share)), found


def _qualities(states: States, world: World, queries: Queries, direction: str) -> list[float]:
    """Geometric mean of `JUDGED` with every share."""
    ends = _Ends(states, direction)
    scorers = [_Mixture(ends, share) for share in SHARES]
    pools = pools_for(queries, world, direction)[-1:]
    ranks, candidates = rank_pools(scorers, queries, world, direction, pools)
    return [geometric_mean(ranks[number, 0], candidates[0]) for number in range(len(SHARES))]


class _Ends:
    """Scores of trained and of generated vectors; every mixture's scores lie between them."""

    def __init__(self, states: States, direction: str) -> None:
        self.states, self.direction = states, direction
        self._rows, self._scores = slice(0, 0), (np.zeros((0, 0)), np.zeros((0, 0)))

    def scores(self, queries: Queries, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, I] or [B, U], twice; kept for the other mixtures of the same block."""
        if self._rows != rows:
            of = self._items if self.direction == USER_TO_ITEM else self._users
            self._rows, self._scores = rows, of(queries, rows)
        return self._scores

    def _items(self, queries: Queries, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        users = self.states.users_asked(queries, rows)
        trained, generated = stored_ends(self.states.model, self.states.made)
        return users @ trained.T, users @ generated.T

    def _users(self, queries: Queries, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        trained, generated = self.states.ends_before(queries, rows)
        return self.states.user_scores(trained, queries, rows), self.states.user_scores(
            generated, queries, rows
        )


class _Mixture:
    """Scores with one share."""

    def __init__(self, ends: _Ends, share: float) -> None:
        self.ends, self.share, self.name = ends, share, f"share {share}"

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        trained, generated = self.ends.scores(queries, rows)
        return (1 - self.share) * trained + self.share * generated
