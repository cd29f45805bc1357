"""New events into both sides' histories: where each goes, and every array after it went there.

Only the histories that get an event are looked at; the others move as they are.

Shapes: E events of the dataset, N new events, U users and I items of both together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.data.arrivals import Arrivals, Ties
from duality.data.dataset import Dataset
from duality.data.histories import Histories


@dataclass(frozen=True, eq=False)
class Merged:
    """The arrays of dataset.py after an update.

    Args:
        event_user, event_item, event_time: as there.
        item_event: as there.
        source: int64 [events], which event of "all old ones, then all new ones" each is.
    """

    event_user: np.ndarray
    event_item: np.ndarray
    event_time: np.ndarray | None
    item_event: np.ndarray
    source: np.ndarray

    def only(self, kept: np.ndarray) -> Merged:
        """The events that `kept`, bool [events], marks, numbered anew."""
        number = np.cumsum(kept) - 1
        return Merged(
            event_user=self.event_user[kept],
            event_item=self.event_item[kept],
            event_time=None if self.event_time is None else self.event_time[kept],
            item_event=number[self.item_event[kept[self.item_event]]],
            source=self.source[kept],
        )


def already_there(dataset: Dataset, new: Arrivals) -> np.ndarray:
    """bool [N]: the dataset holds this event (user, item and time) and has not been met for another row.

    A row that stands twice in the file is two events, as in an import, of which a dataset that holds
    one gets the other.
    """
    assert dataset.event_time is not None
    assert new.time is not None
    old, lengths, known = _known(_of_users(dataset), new.user)
    owner = np.concatenate([np.repeat(known, lengths), new.user])
    item = np.concatenate([dataset.event_item[old], new.item])
    time = np.concatenate([dataset.event_time[old], new.time])
    group, rank = _ranked(owner, item, time)
    held = np.bincount(group[: len(old)], minlength=int(group.max()) + 1)
    mine = held[group[len(old) :]]
    return rank[len(old) :] - mine < mine


def merge(dataset: Dataset, new: Arrivals, ties: Ties) -> Merged:
    """Put new events where they belong in time, after the old ones where there is no time.

    A history that the import ordered by a column of the log gets its new events at the end: where in
    that order they belong cannot be known, because the column is not stored.
    """
    event_user, event_item = dataset.event_user, dataset.event_item
    by_time = dataset.timed and not dataset.manifest["mapping"]["order"]
    old, lengths, known = _known(_of_users(dataset), new.user)
    keys = _time_keys(dataset, new, ties, old) if by_time else []
    chosen, place = _places(dataset.user_indptr, known, lengths, new.user, keys)
    shift = np.cumsum(np.bincount(place, minlength=dataset.num_events + 1))[:-1]
    number = np.empty(len(new), np.int64)
    number[chosen] = place + np.arange(len(new))
    time = None
    if dataset.event_time is not None and new.time is not None:
        time = np.insert(dataset.event_time, place, new.time[chosen])
    return Merged(
        event_user=np.insert(event_user, place, new.user[chosen]),
        event_item=np.insert(event_item, place, new.item[chosen]),
        event_time=time,
        item_event=_item_events(dataset, new, ties, np.arange(dataset.num_events) + shift, number),
        source=np.insert(np.arange(dataset.num_events), place, dataset.num_events + chosen),
    )


def without_repeats(merged: Merged, users: np.ndarray, repeats: str) -> Merged:
    """Of several events of one of `users` with one item, the first or the last only."""
    kept = np.ones(len(merged.event_user), dtype=bool)
    theirs = np.flatnonzero(np.isin(merged.event_user, users))
    theirs = theirs if repeats == "first" else theirs[::-1]
    pair = merged.event_user[theirs].astype(np.int64) << 32 | merged.event_item[theirs]
    kept[theirs] = False
    kept[theirs[np.unique(pair, return_index=True)[1]]] = True
    return merged.only(kept)


def _item_events(
    dataset: Dataset, new: Arrivals, ties: Ties, old_number: np.ndarray, new_number: np.ndarray
) -> np.ndarray:
    """`item_event` with the new events in it, all by their new numbers."""
    old, lengths, known = _known(Histories(dataset.item_indptr, dataset.item_event), new.item)
    keys = [np.concatenate([old_number[old], new_number]), *_time_keys(dataset, new, ties, old)]
    chosen, place = _places(dataset.item_indptr, known, lengths, new.item, keys)
    return np.insert(old_number[dataset.item_event], place, new_number[chosen])


def _time_keys(dataset: Dataset, new: Arrivals, ties: Ties, old: np.ndarray) -> list[np.ndarray]:
    """Tie and time of old events (numbers int64 [K]), then of the new ones: [K + N] each.

    An old event whose time no new one shares needs no tie: its hash, the dear part, stays 0.
    """
    tie = np.zeros(len(old), np.uint64)
    if dataset.event_time is None or new.time is None:
        tie[:] = ties.of(old)
        return [np.concatenate([tie, new.tie])]
    time = dataset.event_time[old]
    shared = np.isin(time, new.time)
    tie[shared] = ties.of(old[shared])
    return [np.concatenate([tie, new.tie]), np.concatenate([time, new.time])]


def _known(histories: Histories, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Old events of the owners that the dataset has, their number per owner, and these owners, sorted."""
    known = np.unique(owners)
    known = known[known < histories.num_owners]
    return *histories.packed(known), known


def _places(
    indptr: np.ndarray, known: np.ndarray, lengths: np.ndarray, owner: np.ndarray, keys: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Where new events go among the old ones of their owner.

    Args:
        indptr: of the old histories.
        known, lengths: owners that have old events here, sorted, and how many.
        owner: int64 [N], of the new events.
        keys: what orders old and new events of one owner, the last key first; where all are equal,
            old ones come first and new ones as they came.

    Returns:
        The new events, int64 [N], in the order of their place, and how many old events of the whole
        dataset stand before each.
    """
    old_owner = np.repeat(known, lengths)
    order = np.lexsort([*keys, np.concatenate([old_owner, owner])])
    is_new = order >= len(old_owner)
    chosen = order[is_new] - len(old_owner)
    mine = owner[chosen]
    earlier = np.cumsum(~is_new)[is_new] - np.searchsorted(old_owner, mine)
    return chosen, indptr[np.minimum(mine, len(indptr) - 1)] + earlier


def _of_users(dataset: Dataset) -> Histories:
    return Histories(dataset.user_indptr, np.arange(dataset.num_events))


def _ranked(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the group of equal keys that each row is in, and its place among them; int64 both."""
    order = np.lexsort(keys)
    changed = np.zeros(len(order), dtype=bool)
    for key in keys:
        changed[1:] |= np.diff(key[order]) != 0
    group = np.cumsum(changed)
    start = np.flatnonzero(np.concatenate([[True], changed[1:]]))
    found, rank = np.empty_like(group), np.empty_like(group)
    found[order], rank[order] = group, np.arange(len(order)) - start[group]
    return found, rank
