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
