"""Scorers that need no model: what any system has to beat, in both directions.

Each is fitted on `world.train` and answers one direction. The names follow the direction:
`most_popular`, `recently_popular` and `item_knn` find items; `most_active`, `recently_active`,
`last_active` and `user_knn` find users; `markov` finds either.

Shapes: B queries of a block, N rows of the asked side, E_train training events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from duality import metrics
from duality.errors import InputError
from duality.evaluation.past import Clock, Histories
from duality.evaluation.queries import USER_TO_ITEM, Queries, World
from duality.evaluation.ranking import rank_full

MICROSECONDS_PER_DAY = 86_400_000_000
WINDOWS = (1, 7, 30, 90)


def check_fitted(fitted: str, asked: str, name: str) -> None:
    """Raise ValueError when a scorer fitted for one direction is asked for the other."""
    if fitted != asked:
        raise ValueError(f"{name} was fitted for {fitted} and cannot answer {asked}")


class MostPopular:
    """Training events per row of the asked side: most popular items, or most active users."""

    def __init__(self, world: World, direction: str) -> None:
        self.direction = direction
        self.name = "most_popular" if direction == USER_TO_ITEM else "most_active"
        target = world.event_ends(direction)[1][world.train]
        self.counts = np.bincount(target, minlength=world.num_targets(direction)).astype(np.float64)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """The same counts for every query: float64 [B, N], read-only."""
        check_fitted(self.direction, direction, self.name)
        return np.broadcast_to(self.counts, (rows.stop - rows.start, len(self.counts)))


class RecentPopularity:
    """Training events in the `days` strictly before the query; ties by all training events.

    A window leaves many rows at zero, and ties count against the target. Breaking them by
    overall popularity makes this a stronger opponent than the bare count.

    Cost: per block, one pass over the training events between the earliest window's start
    and the latest query, and [2B, N] int32 cumulative counts.

    Raises:
        InputError: the log has no time.
    """

    def __init__(self, world: World, direction: str, days: int) -> None:
        if world.event_time is None:
            raise InputError("recent popularity needs event times: this log has an order but no time")
        self.direction, self.days = direction, days
        self.name = "recently_popular" if direction == USER_TO_ITEM else "recently_active"
        self.num_targets = world.num_targets(direction)
        target, time = world.event_ends(direction)[1][world.train], world.event_time[world.train]
        order = np.argsort(time, kind="stable")
        self.times, self.targets = time[order], target[order].astype(np.int64)
        counts = np.bincount(target, minlength=self.num_targets)
        self.tie_break = counts / (counts.max(initial=0) + 1.0)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """Counts in each query's window plus a tie-break below 1: float64 [B, N]."""
        check_fitted(self.direction, direction, self.name)
        if queries.time is None:
            raise InputError(f"{self.name} needs query times: this log has an order but no time")
        end = np.searchsorted(self.times, queries.time[rows], side="left")
        start = np.searchsorted(
            self.times, queries.time[rows] - self.days * MICROSECONDS_PER_DAY, side="left"
        )
        return self._counts_between(start, end) + self.tie_break

    def _counts_between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Training events numbered start <= n < end of each row: [B, N] from two int [B]."""
        edges, place = np.unique(np.concatenate([start, end]), return_inverse=True)
        segment = np.repeat(np.arange(1, len(edges)), np.diff(edges))
        cells = segment * self.num_targets + self.targets[edges[0] : edges[-1]]
        counts = np.bincount(cells, minlength=len(edges) * self.num_targets).astype(np.int32)
        until = counts.reshape(len(edges), self.num_targets).cumsum(axis=0, dtype=np.int32)
        return until[place[len(start) :]] - until[place[: len(start)]]


class LastActive:
    """Time of each user's last visible event strictly before the query: it finds who is online.

    Raises:
        InputError: the log has no time.
    """

    name = "last_active"

    def __init__(self, world: World, direction: str) -> None:
        if world.event_time is None:
            raise InputError("last active needs event times: this log has an order but no time")
        self.direction = direction
        target = world.event_ends(direction)[1]
        self.clock = Clock(
            target[world.visible], world.event_time[world.visible], world.num_targets(direction)
        )

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """Microseconds: float64 [B, N], -inf for no event."""
        check_fitted(self.direction, direction, self.name)
        if queries.time is None:
            raise InputError(f"{self.name} needs query times: this log has an order but no time")
        latest = self.clock.latest(queries.time[rows])
        return np.where(latest > np.iinfo(np.int64).min, latest.astype(np.float64), -np.inf)


class Markov:
    """First-order Markov chain: how often the asked row came right after the source's last one.

    For user-to-item, the counts of item -> next item of a user; for item-to-user, of user -> next
    user of an item. Rows never seen after the last one come below all others, by popularity.
    """

    def __init__(self, world: World, direction: str) -> None:
        self.direction, self.name = direction, "markov"
        self.num_targets = world.num_targets(direction)
        self.histories = Histories(world, direction)
        source, target = world.event_ends(direction)
        events = np.flatnonzero(world.train)
        time = events if world.event_time is None else world.event_time[events]
        order = events[np.lexsort((events, time, source[events]))]
        follows = source[order[1:]] == source[order[:-1]]
        before, after = target[order[:-1]][follows], target[order[1:]][follows]
        shape = (self.num_targets, self.num_targets)
        self.counts = sparse.csr_matrix((np.ones(len(before)), (before, after)), shape=shape)
        popular = np.bincount(target[events], minlength=self.num_targets)
        self.tie_break = popular / (popular.max(initial=0) + 1.0) - 1.0

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """Counts, ties by popularity: float64 [B, N]."""
        check_fitted(self.direction, direction, self.name)
        last = self.histories.last(queries, rows, direction)
        counts = self.counts[np.maximum(last, 0)].toarray()
        counts[last < 0] = 0.0
        return counts + self.tie_break


def choose_window(
    world_validation: World,
    queries_validation: Queries,
    direction: str,
    windows: Sequence[int] = WINDOWS,
) -> int:
    """The window, in days, with the best NDCG@10 on validation queries; the first of equals.

    Raises:
        InputError: the log has no time.
    """

    def quality(days: int) -> float:
        scorer = RecentPopularity(world_validation, direction, days)
        ranks, _ = rank_full(scorer, queries_validation, world_validation, direction)
        return float(metrics.ndcg(ranks, 10).mean())

    return max(windows, key=quality)
