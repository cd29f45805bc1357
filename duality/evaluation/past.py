"""What had happened strictly before each query.

Shapes: E events, Q queries, B queries of a block, N rows of a side.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from duality.evaluation.queries import ITEM_TO_USER, Queries, World


class Clock:
    """Events of the rows of one side in time order; answers for blocks of moments.

    Args:
        owner: int [E], rows.
        time: int64 [E], microseconds.
        num_owners: N.

    Cost: blocks in ascending order walk the log once; going back starts over.
    """

    def __init__(self, owner: np.ndarray, time: np.ndarray, num_owners: int) -> None:
        order = np.argsort(time, kind="stable")
        self.time, self.owner, self.num_owners = time[order], owner[order].astype(np.int64), num_owners
        self._restart()

    def _restart(self) -> None:
        self._place = 0
        self._counts = np.zeros(self.num_owners, np.int64)
        self._latest = np.full(self.num_owners, np.iinfo(np.int64).min)

    def counts(self, moments: np.ndarray) -> np.ndarray:
        """Events of each row strictly before each moment: int64 [B, N] for int64 [B]."""
        order, row, owner, _ = self._window(moments)
        steps = np.bincount(row * self.num_owners + owner, minlength=len(moments) * self.num_owners)
        found = np.empty((len(moments), self.num_owners), np.int64)
        found[order] = steps.reshape(found.shape).cumsum(axis=0) + self._counts
        return found

    def latest(self, moments: np.ndarray) -> np.ndarray:
        """Time of each row's last event strictly before each moment, int64 [B, N]; the least for none."""
        order, row, owner, time = self._window(moments)
        steps = np.full((len(moments), self.num_owners), np.iinfo(np.int64).min)
        np.maximum.at(steps, (row, owner), time)
        steps[0] = np.maximum(steps[0], self._latest)
        found = np.empty_like(steps)
        found[order] = np.maximum.accumulate(steps, axis=0)
        return found

    def _window(self, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Order of the moments, and the events before the last but not before the first of them: the
        first moment (in that order) that each precedes, its owner, its time."""
        order = np.argsort(moments, kind="stable")
        ends = np.searchsorted(self.time, moments[order], side="left")
        self._walk_to(int(ends[0]))
        row = np.repeat(np.arange(1, len(ends)), np.diff(ends))
        window = slice(int(ends[0]), int(ends[-1]))
        return order, row, self.owner[window], self.time[window]

    def _walk_to(self, place: int) -> None:
        if place < self._place:
            self._restart()
        passed = slice(self._place, place)
        self._counts += np.bincount(self.owner[passed], minlength=self.num_owners)
        # In time order, so the last assignment is the latest.
        self._latest[self.owner[passed]] = self.time[passed]
        self._place = place


class Histories:
    """Visible histories of the asking side as sparse rows, cut at the query's time where there is one."""

    def __init__(self, world: World, direction: str) -> None:
        source, target = world.event_ends(direction)
        events = np.flatnonzero(world.visible)
        self._cut = direction == ITEM_TO_USER and world.event_time is not None
        time = world.event_time[events] if self._cut and world.event_time is not None else events
        order = np.lexsort((time, source[events]))
        self._target, self._time = target[events][order], time[order]
        counts = np.bincount(source[events], minlength=world.num_sources(direction))
        self._indptr = np.concatenate(([0], np.cumsum(counts)))
        self._width = world.num_targets(direction)

    def rows(self, queries: Queries, rows: slice, direction: str) -> sparse.csr_matrix:
        """Which targets the source of each query had met, sparse float32 of ones [B, N]."""
        start, stop = self._slices(queries, rows, direction)
        lengths = stop - start
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        place = _places(start, lengths)
        met = sparse.csr_matrix(
            (np.ones(len(place), np.float32), self._target[place], indptr), shape=(len(start), self._width)
        )
        met.sum_duplicates()
        met.data[:] = 1.0
        return met

    def last(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """The last target that each source met, int64 [B]; -1 for none."""
        start, stop = self._slices(queries, rows, direction)
        if not len(self._target):
            return np.full(len(start), -1)
        return np.where(stop > start, self._target[np.maximum(stop - 1, 0)], -1).astype(np.int64)

    def _slices(self, queries: Queries, rows: slice, direction: str) -> tuple[np.ndarray, np.ndarray]:
        source = queries.sources(direction)[rows].astype(np.int64)
        start, stop = self._indptr[source], self._indptr[source + 1]
        if self._cut and queries.time is not None:
            owner = np.repeat(np.arange(len(start)), stop - start)
            early = self._time[_places(start, stop - start)] < queries.time[rows][owner]
            stop = start + np.bincount(owner[early], minlength=len(start))
        return start, stop


def _places(start: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Numbers start..start + length of each slice, one after another."""
    first = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return np.repeat(start - first, lengths) + np.arange(lengths.sum())
