"""What is asked and what may be known: hidden events become queries.

A query hides one event and asks for one end of it from the other: for the item
(`user-to-item`) or for the user (`item-to-user`). Rows are dense, event numbers are those
of the dataset.

Shapes: E events, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse

from duality.errors import InputError

USER_TO_ITEM = "user-to-item"
ITEM_TO_USER = "item-to-user"
DIRECTIONS = (USER_TO_ITEM, ITEM_TO_USER)


@dataclass(frozen=True)
class World:
    """What may be known when a query is answered.

    Attributes:
        num_users, num_items: rows of either side.
        visible: bool [E]; events that may serve as history, and that make a pair "seen".
        train: bool [E]; events that weights and baselines were fitted on.
        event_user, event_item: int32 [E].
        event_time: int64 [E], microseconds UTC; None when the log has an order but no time.
    """

    num_users: int
    num_items: int
    visible: np.ndarray
    train: np.ndarray
    event_user: np.ndarray
    event_item: np.ndarray
    event_time: np.ndarray | None = None

    def num_targets(self, direction: str) -> int:
        """Rows of the side that is asked for."""
        return self.num_items if check_direction(direction) == USER_TO_ITEM else self.num_users

    def num_sources(self, direction: str) -> int:
        """Rows of the side that asks."""
        return self.num_users if check_direction(direction) == USER_TO_ITEM else self.num_items

    def event_ends(self, direction: str) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) rows of every event, int32 [E] each."""
        if check_direction(direction) == USER_TO_ITEM:
            return self.event_user, self.event_item
        return self.event_item, self.event_user


@dataclass(frozen=True)
class Queries:
    """Hidden events, one query each.

    Attributes:
        event: int64 [Q], number of the hidden event in the dataset.
        user, item: int32 [Q], the two ends of the hidden event.
        time: int64 [Q], microseconds UTC, or None when the log is untimed.
        dropped: why a hidden event gave no query: {reason: events}.
        notes: what is unusual about the queries that remain: {remark: queries}.
    """

    event: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.event)

    def part(self, rows: np.ndarray) -> Queries:
        """Some of the queries, int64 [N] or bool [Q]; what is noted of all stays."""
        time = None if self.time is None else self.time[rows]
        return replace(self, event=self.event[rows], user=self.user[rows], item=self.item[rows], time=time)

    def sources(self, direction: str) -> np.ndarray:
        """Rows that ask, int32 [Q]: users for user-to-item, items for item-to-user."""
        return self.user if check_direction(direction) == USER_TO_ITEM else self.item

    def targets(self, direction: str) -> np.ndarray:
        """Rows to be found, int32 [Q]: items for user-to-item, users for item-to-user."""
        return self.item if check_direction(direction) == USER_TO_ITEM else self.user


def check_direction(direction: str) -> str:
    """Return `direction`.

    Raises:
        InputError: it is neither user-to-item nor item-to-user.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction '{direction}': choose {USER_TO_ITEM} or {ITEM_TO_USER}")
    return direction


def pair_matrix(world: World, events: np.ndarray, direction: str) -> sparse.csr_matrix:
    """Which pairs the chosen events contain.

    Args:
        world: the log.
        events: bool [E], the events to take.
        direction: rows of the matrix are the side that asks.

    Returns:
        Sparse bool [sources, targets], sorted column indices, repeats merged.
    """
    source, target = world.event_ends(direction)
    source, target = source[events], target[events]
    shape = (world.num_sources(direction), world.num_targets(direction))
    pairs = sparse.csr_matrix((np.ones(len(source), dtype=bool), (source, target)), shape=shape)
    pairs.sum_duplicates()
    return pairs


def seen_csr(world: World, direction: str) -> sparse.csr_matrix:
    """Visible pairs, sparse bool [users, items] or, for item-to-user, [items, users]."""
    return pair_matrix(world, world.visible, direction)


def contains(pairs: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Whether each (row, column) is stored, bool [N]."""
    if len(rows) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(pairs[rows, columns]).ravel().astype(bool)


def make_queries(world: World, hidden_events: np.ndarray, direction: str) -> Queries:
    """Turn hidden events into queries.

    An event is dropped when its pair is already visible (retrieval excludes what was seen,
    so nobody could find it) or when an earlier hidden event has the same pair. Users and
    items without a training event stay, as queries, targets and candidates alike: that a
    system cannot find them is part of its result. `notes` says how many there are. Item-to-user
    candidates have a visible event strictly before the query, so that a target without one is
    dropped; these queries come in the order of their times.

    Args:
        world: what may be known.
        hidden_events: int64 [H], event numbers; none may be visible.
        direction: what is asked for.

    Raises:
        ValueError: a hidden event is visible or was trained on.
    """
    hidden = np.asarray(hidden_events, dtype=np.int64)
    if world.visible[hidden].any() or world.train[hidden].any():
        raise ValueError("a hidden event is visible or in training")
    user, item = world.event_user[hidden], world.event_item[hidden]
    seen = contains(seen_csr(world, USER_TO_ITEM), user, item)
    repeated = _later_copies(user.astype(np.int64) * world.num_items + item) & ~seen
    new = _without_past(world, hidden, direction) & ~(seen | repeated)
    keep = ~(seen | repeated | new)
    dropped = {
        "target already seen": int(seen.sum()),
        "pair hidden twice": int(repeated.sum()),
        "target without an event before the query": int(new.sum()),
    }
    event = hidden[keep]
    if direction == ITEM_TO_USER and world.event_time is not None:
        event = event[np.argsort(world.event_time[event], kind="stable")]
    queries = Queries(
        event=event,
        user=world.event_user[event],
        item=world.event_item[event],
        time=None if world.event_time is None else world.event_time[event],
        dropped={reason: count for reason, count in dropped.items() if count},
    )
    return replace(queries, notes=_notes(world, queries, direction))


def first_visible_time(world: World) -> np.ndarray:
    """Time of each user's first visible event, int64 [users]; the largest number for none."""
    assert world.event_time is not None
    first = np.full(world.num_users, np.iinfo(np.int64).max)
    np.minimum.at(first, world.event_user[world.visible], world.event_time[world.visible])
    return first


def _without_past(world: World, hidden: np.ndarray, direction: str) -> np.ndarray:
    if direction != ITEM_TO_USER or world.event_time is None:
        return np.zeros(len(hidden), dtype=bool)
    return first_visible_time(world)[world.event_user[hidden]] >= world.event_time[hidden]


def _later_copies(keys: np.ndarray) -> np.ndarray:
    later = np.ones(len(keys), dtype=bool)
    later[np.unique(keys, return_index=True)[1]] = False
    return later


def _notes(world: World, queries: Queries, direction: str) -> dict[str, int]:
    source, target = world.event_ends(direction)
    trained_source = np.bincount(source[world.train], minlength=world.num_sources(direction)) > 0
    trained_target = np.bincount(target[world.train], minlength=world.num_targets(direction)) > 0
    notes = {
        "target without a training event": int((~trained_target[queries.targets(direction)]).sum()),
        "query without a training event": int((~trained_source[queries.sources(direction)]).sum()),
    }
    return {remark: count for remark, count in notes.items() if count}
