"""Popularity of items and activity of users in the scores, chosen on validation.

Both are fading counts (`duality.intensity`) with a weight and a fading time. They are chosen after
training, so that the encoders learn preference, and each for the direction in which it matters: a user's
activity moves no item past another, nor an item's popularity a user.

Shapes: B queries of a block, I items, U users.
"""

from __future__ import annotations

import numpy as np

from duality.evaluation.pools import pools_for
from duality.evaluation.queries import Queries, World
from duality.evaluation.ranking import rank_pools
from duality.metrics import per_query
from duality.workflows.scorers import Lately, ModelScorer, States

DAY = 86_400.0
FADING = (60.0, 600.0, DAY / 24, DAY / 4, DAY, 7 * DAY, 30 * DAY, 180 * DAY)
WEIGHTS = (0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
JUDGED = ("ndcg@10", "recall@100")


def choose_bias(
    states: States, world: World, queries: Queries, direction: str
) -> tuple[tuple[float, float], dict[tuple[float, float], float]]:
    """Weight and fading time in seconds with the highest geometric mean of `JUDGED`, and everyone's.

    Item to user counts with time-matched candidates. (0, 0) where nothing helps or the log has no time.

    Args:
        states: of the model after training, its biases 0.
        world: what may be known on validation.
        queries: of `direction`.
    """
    none = (0.0, 0.0)
    if queries.time is None or world.event_time is None:
        return none, {none: 0.0}
    parts = _Parts(states, direction)
    settings = [none, *((weight, seconds) for seconds in FADING for weight in WEIGHTS)]
    scorers = [_Biased(parts, *setting) for setting in settings]
    pools = pools_for(queries, world, direction)[-1:]
    ranks, candidates = rank_pools(scorers, queries, world, direction, pools)
    found = {
        setting: geometric_mean(ranks[number, 0], candidates[0]) for number, setting in enumerate(settings)
    }
    return max(settings, key=lambda setting: (found[setting], setting == none)), found


def geometric_mean(ranks: np.ndarray, candidates: np.ndarray) -> float:
    """Of the `JUDGED` metrics' means over queries; both int64 [Q]."""
    values = [per_query(name, ranks, candidates).mean() for name in JUDGED]
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-6)))))


class _Parts:
    """Preference and fading counts of a block of queries, kept for all settings."""

    def __init__(self, states: States, direction: str) -> None:
        self.direction, self.scorer = direction, ModelScorer(states)
        self.lately = Lately(states, direction)
        self._rows, self._kept = slice(0, 0), dict[float, np.ndarray]()

    def part(self, queries: Queries, rows: slice, seconds: float) -> np.ndarray:
        """Preference (0 seconds) or log counts, float32 [B, I] or [B, U]."""
        if rows != self._rows:
            self._rows, self._kept = rows, {}
        if seconds not in self._kept:
            self._kept[seconds] = (
                self.lately.log_counts(queries, rows, seconds)
                if seconds
                else self.scorer.preference(queries, rows, self.direction)
            )
        return self._kept[seconds]


class _Biased:
    """Preference and weighted log counts."""

    def __init__(self, parts: _Parts, weight: float, seconds: float) -> None:
        self.parts, self.weight, self.seconds = parts, np.float32(weight), seconds
        self.name = f"{weight} of {seconds} s"

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        preference = self.parts.part(queries, rows, 0.0)
        if not self.weight:
            return preference
        return preference + self.weight * self.parts.part(queries, rows, self.seconds)
