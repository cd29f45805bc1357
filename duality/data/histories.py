"""Histories of both sides as flat arrays of event numbers.

A history is a slice of `event`: the events of one user (or one item), oldest first. Nothing is
copied per user; a batch is one gather.

Shapes: E events of the dataset, H events of the histories, N owners (users or items).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from duality.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Histories:
    """Event numbers grouped by owner.

    Args:
        indptr: int64 [N + 1].
        event: int64 [H], event numbers, oldest first inside an owner.
    """

    indptr: np.ndarray
    event: np.ndarray

    @property
    def num_owners(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.indptr)

    def packed(self, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Histories of some owners, one after another.

        Args:
            owners: int64 [S].

        Returns:
            Event numbers int64 [P] and lengths int64 [S]; an owner without events has length 0.
        """
        lengths = self.indptr[owners + 1] - self.indptr[owners]
        starts = np.concatenate(([0], np.cumsum(lengths)))[:-1]
        inside = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        return self.event[np.repeat(self.indptr[owners], lengths) + inside], lengths


def first_meetings(dataset: Dataset) -> np.ndarray:
    """bool [E]: the event is the first between its user and its item."""
    key = dataset.event_user.astype(np.int64) * dataset.num_items + dataset.event_item
    first = np.zeros(dataset.num_events, dtype=bool)
    first[np.unique(key, return_index=True)[1]] = True
    return first


def user_histories(dataset: Dataset, mask: np.ndarray) -> Histories:
    """Items of each user: the events that `mask` (bool [E]) keeps, in the user's order."""
    counts = np.bincount(dataset.event_user[mask], minlength=dataset.num_users)
    return Histories(np.concatenate(([0], np.cumsum(counts))), np.flatnonzero(mask))


def item_histories(dataset: Dataset, mask: np.ndarray) -> Histories:
    """Users of each item: kept events that are also first meetings, in time order.

    A user who comes back is not a new user of the item, and the state that user brings already
    holds the item; so a repeat is neither an input nor a target of the item side.
    """
    kept = mask & first_meetings(dataset)
    event = np.asarray(dataset.item_event)
    event = event[kept[event]]
    counts = np.bincount(dataset.event_item[event], minlength=dataset.num_items)
    return Histories(np.concatenate(([0], np.cumsum(counts))), event)


def newest(histories: Histories, most: int) -> Histories:
    """The last `most` events of every owner; 0 takes all."""
    if not most:
        return histories
    length = np.minimum(histories.lengths, most)
    return _cut(histories, np.arange(len(length)), histories.lengths - length, length, length).histories


def oldest(histories: Histories, most: int) -> Histories:
    """The first `most` events of every owner."""
    length = np.minimum(histories.lengths, most)
    return _cut(histories, np.arange(len(length)), np.zeros_like(length), length, length).histories


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of long histories, each a history of its own.

    Args:
        histories: one owner per window, W of them.
        owner: int64 [W], whose history the window is cut from.
        ends: int64 [W], one past the window's last row, counted from the owner's first.
        fresh: int64 [W], how many rows at the window's end no earlier window holds.
    """

    histories: Histories
    owner: np.ndarray
    ends: np.ndarray
    fresh: np.ndarray


def overlapping_windows(histories: Histories, size: int) -> Windows:
    """Windows of up to `size` events that overlap by half, so that together they end at every event.

    The last row of an event's own window sees the `size / 2` to `size` events before it, or all there are.

    Args:
        histories: of one side.
        size: at least 2; 0 leaves every history whole.
    """
    lengths = histories.lengths
    if not size:
        return _cut(histories, np.arange(len(lengths)), np.zeros_like(lengths), lengths, lengths)
    step = size // 2
    number = 1 + -(-(lengths - size).clip(min=0) // step)
    owner = np.repeat(np.arange(len(lengths)), number)
    order = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    start = order * step
    length = np.minimum(size, lengths[owner] - start)
    return _cut(histories, owner, start, length, np.where(order, length - (size - step), length))


def random_windows(histories: Histories, size: int, rng: np.random.Generator) -> Windows:
    """One window of up to `size` events per owner, anywhere in its history, often at its beginning."""
    lengths = histories.lengths
    if not size:
        return overlapping_windows(histories, 0)
    start = (rng.random(len(lengths)) * lengths).astype(np.int64) - size // 2
    start = start.clip(min=0)
    length = np.minimum(size, lengths - start)
    return _cut(histories, np.arange(len(lengths)), start, length, length)


def _cut(
    histories: Histories, owner: np.ndarray, start: np.ndarray, length: np.ndarray, fresh: np.ndarray
) -> Windows:
    indptr = np.concatenate(([0], np.cumsum(length)))
    place = np.repeat(histories.indptr[owner] + start - indptr[:-1], length) + np.arange(indptr[-1])
    return Windows(Histories(indptr, histories.event[place]), owner, start + length, fresh)
