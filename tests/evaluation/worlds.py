"""Small random logs and scorers for the evaluation tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.evaluation.queries import Queries, World

DAY = 86_400_000_000


def random_world(
    seed: int, *, num_users: int = 12, num_items: int = 9, num_events: int = 60, timed: bool = True
) -> tuple[World, np.ndarray]:
    """A log and the hidden events: the last event of every user that has two."""
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(0, num_users, num_events)).astype(np.int32)
    item = random.integers(0, num_items, num_events).astype(np.int32)
    time = random.integers(0, 40 * DAY, num_events)
    time = time[np.lexsort((time, user))]
    last = np.append(np.flatnonzero(np.diff(user)), num_events - 1)
    hidden = last[np.bincount(user, minlength=num_users)[user[last]] > 1]
    visible = np.ones(num_events, dtype=bool)
    visible[hidden] = False
    train = visible & (random.random(num_events) < 0.9)
    world = World(num_users, num_items, visible, train, user, item, time if timed else None)
    return world, hidden


@dataclass
class TableScorer:
    """Scores from a fixed table [sources, targets]."""

    table: np.ndarray
    name: str = "table"

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        return self.table[queries.sources(direction)[rows]]


def random_scores(seed: int, world: World, direction: str, *, levels: int = 4) -> np.ndarray:
    """Scores with many ties, -inf among them."""
    random = np.random.default_rng(seed)
    shape = (world.num_sources(direction), world.num_targets(direction))
    table = random.integers(0, levels, shape).astype(float)
    table[random.random(shape) < 0.1] = -np.inf
    return table
