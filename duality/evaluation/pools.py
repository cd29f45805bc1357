"""Who competes with the target, query by query.

Finding the next user has a trap: ranking users by how recently they were active mostly finds who is
online. So where there is time, item-to-user numbers are given twice: over all users with an event
strictly before the query, and over time-matched ones, whose own next event is among the closest to
the query.

Hazard: where people do everything in one sitting, the matched still hold few who are at it: `last_active`
        among the baselines says how far matching has worked (AUC .5: entirely).

Shapes: E events, B queries of a block, N rows of the asked side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from duality.evaluation.queries import ITEM_TO_USER, Queries, World, first_visible_time

MATCHED = 500
ALL, TIME_MATCHED = "all", "time-matched"

Allowed = Callable[[slice], np.ndarray]


@dataclass(frozen=True)
class Pool:
    """A rule for candidates, besides "not seen with the query's source".

    Args:
        name: "all" or "time-matched".
        words: the rule, for results.
        allowed: bool [B, N] or [1, N] for a block of queries; None when everything is.
    """

    name: str
    words: str
    allowed: Allowed | None = None


def pools_for(queries: Queries, world: World, direction: str, *, matched: int = MATCHED) -> list[Pool]:
    """The pools that results are given for: "all" first, then "time-matched" where it exists.

    Args:
        queries: from `make_queries`.
        world: the log.
        direction: of the queries.
        matched: users in the time-matched pool.
    """
    if direction != ITEM_TO_USER:
        return [Pool(ALL, "all items")]
    if queries.time is None or world.event_time is None:
        return [Pool(ALL, "all users; the log has no time, so that nobody can be matched in time")]
    first = first_visible_time(world)
    times = queries.time
    before = Pool(
        ALL,
        "users with an event strictly before the query",
        lambda rows: first[None, :] < times[rows, None],
    )
    upcoming = NextEvents(world)
    close = Pool(
        TIME_MATCHED,
        f"those of them whose own next event is among the {matched} closest to the query",
        lambda rows: upcoming.allowed(times[rows], matched) & (first[None, :] < times[rows, None]),
    )
    return [before, close]


class NextEvents:
    """Whose next event comes soonest after a moment.

    Args:
        world: its whole log counts, hidden events too: they choose candidates, and no scorer sees them.
    """

    def __init__(self, world: World) -> None:
        assert world.event_time is not None
        order = np.lexsort((world.event_user, world.event_time))
        self._time, self._user = world.event_time[order], world.event_user[order]
        self._num_users = world.num_users
        self._previous = _previous_of_same(self._user)

    def allowed(self, times: np.ndarray, most: int) -> np.ndarray:
        """Whether a user is among the `most` who come next: bool [B, users] for times int64 [B].

        A user comes next at the first event at or after the moment; equal moments by user row.
        """
        start = np.searchsorted(self._time, times, side="left")
        row, user = self._soonest(start, most)
        allowed = np.zeros((len(times), self._num_users), dtype=bool)
        allowed[row, user] = True
        return allowed

    def _soonest(self, start: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """(query, user) pairs; widens its window until every query has its users or the log ends."""
        width, total = 4 * most, len(self._user)
        while True:
            place = start[:, None] + np.arange(width)
            inside = place < total
            place = np.minimum(place, total - 1)
            fresh = inside & (self._previous[place] < start[:, None])
            rank = fresh.cumsum(axis=1)
            if width >= total or ((rank[:, -1] >= most) | ~inside[:, -1]).all():
                chosen = fresh & (rank <= most)
                row, column = np.nonzero(chosen)
                return row, self._user[place[row, column]]
            width *= 2


def _previous_of_same(values: np.ndarray) -> np.ndarray:
    """Place of the previous equal value, -1 for none, int64 [E]."""
    order = np.argsort(values, kind="stable")
    previous = np.full(len(values), -1, dtype=np.int64)
    same = values[order[1:]] == values[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous


def allowed_rows(pools: Sequence[Pool], rows: slice) -> list[np.ndarray | None]:
    """`allowed` of each pool for a block."""
    return [None if pool.allowed is None else pool.allowed(rows) for pool in pools]
