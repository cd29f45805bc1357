"""Who else could have come: users about to act when an item is asked for, drawn from the log.

The next-user question is asked at a moment, and then only those who act around it can answer. A rival is
therefore another event close in time, and stands for its user just before it. Where the log has
no time, any event will do.

Shapes: E events, H training events, Q queries, G groups of queries that share rivals, N rivals of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REACH = 2000  # events before and after the moments of a group that its rivals come from


@dataclass(frozen=True, eq=False)
class Draw:
    """Rivals of queries in groups.

    Attributes:
        query: int64 [G, Q // G], which queries are in each group.
        event: int64 [G, N], the rivals' events.
        met: bool [G, Q // G, N], the rival meets the query's item in training, so must not compete.
    """

    query: np.ndarray
    event: np.ndarray
    met: np.ndarray


class Rivals:
    """Draws training events near the moment of a query, and knows who ever met what.

    Args:
        user, item: int32 [E], both ends of every event.
        time: int64 [E], or None.
        train: int64 [H], training events.
        num_items: rows of the item side.
    """

    def __init__(
        self,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray | None,
        train: np.ndarray,
        num_items: int,
    ) -> None:
        self._user, self._time, self._num_items = user, time, num_items
        self._order = train if time is None else train[np.argsort(time[train], kind="stable")]
        self._moments = None if time is None else time[self._order]
        self._pairs = np.unique(self._pair(user[train], item[train]))

    def met_among(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each user meets each item in training: int [Q] and [M] to bool [Q, M].

        Cost: a look at each user's own pairs, not Q x M searches among all.
        """
        first = np.searchsorted(self._pairs, self._pair(users, np.zeros(1, np.int64)))
        lengths = np.searchsorted(self._pairs, self._pair(users + 1, np.zeros(1, np.int64))) - first
        ends = np.cumsum(lengths)
        place = np.repeat(first - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        asked, column = np.unique(items, return_inverse=True)
        mine = self._pairs[place] % self._num_items
        found = np.searchsorted(asked, mine).clip(max=len(asked) - 1)
        hit = asked[found] == mine
        met = np.zeros((len(users), len(asked)), dtype=bool)
        met[np.repeat(np.arange(len(users)), lengths)[hit], found[hit]] = True
        return met[:, column]

    def draw(
        self, events: np.ndarray, items: np.ndarray, groups: int, rivals: int, rng: np.random.Generator
    ) -> Draw:
        """Rivals for queries in groups of neighbours in time; a remainder of Q / G queries is left out.

        Args:
            events: int64 [Q], the events asked about.
            items: int64 [Q], their items.
            groups: G; fewer when there are fewer queries.
            rivals: N.
        """
        groups = min(groups, len(events))
        size = len(events) // groups
        near = np.arange(len(events)) if self._time is None else np.argsort(self._time[events], kind="stable")
        query = near[: size * groups].reshape(groups, size)
        low, high = self._reach(events[query])
        place = low[:, None] + (rng.random((groups, rivals)) * (high - low)[:, None]).astype(np.int64)
        drawn = self._order[place]
        met = [self.met_among(self._user[d], items[q]).T for d, q in zip(drawn, query, strict=True)]
        return Draw(query, drawn, np.stack(met))

    def _reach(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First place and one past the last in the order of time, int64 [G] each, for events [G, n]."""
        total = len(self._order)
        if self._time is None or self._moments is None:
            return np.zeros(len(events), np.int64), np.full(len(events), total)
        times = self._time[events]
        low = np.searchsorted(self._moments, times.min(axis=1), side="left") - REACH
        high = np.searchsorted(self._moments, times.max(axis=1), side="right") + REACH
        return low.clip(min=0), high.clip(max=total)

    def _pair(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return users.astype(np.int64) * self._num_items + items
