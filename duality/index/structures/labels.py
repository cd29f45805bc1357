"""Which key is at which position, both ways.

Positions of keys are found through pages of 1,024 keys: keys only ever grow in the record store, so
after years of churn a flat table would be mostly holes.

Notation: key, the record store's integer; position, where the matrix holds its vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.matrix import Growing, Keys

PAGE_BITS = 10
PAGE = 1 << PAGE_BITS
# Bounds the directory to 64 MB, whatever keys a damaged file holds.
MAX_KEY = 1 << 34
# Keys that are spread wider than this are sorted to find repeated ones: marks would take more memory.
_SPARSE = 16


class Labels:
    """Keys by position and positions by key.

    Args:
        keys: int64 [P], different, 0 <= key < MAX_KEY.

    Raises:
        ValueError: a key is out of range or repeated.
    """

    def __init__(self, keys: Keys) -> None:
        self._by_position = Growing(np.asarray(keys, np.int64))
        self.count = len(keys)
        self.check(self.by_position)
        if _any_repeated(self.by_position):
            raise ValueError("a key is repeated")
        # Made when first asked: searches name results by position and do without.
        self._made: _Pages | None = None

    @staticmethod
    def check(keys: Keys) -> None:
        """Raises ValueError when a key is out of range."""
        if len(keys) and (keys.min() < 0 or keys.max() >= MAX_KEY):
            raise ValueError(f"keys go from 0 to {MAX_KEY - 1}")

    @property
    def by_position(self) -> Keys:
        """int64 [P], -1 where removed; a view, not to be written to."""
        return self._by_position.view

    @property
    def dead(self) -> int:
        """Positions without a key."""
        return len(self._by_position) - self.count

    def keys(self) -> Keys:
        """Live keys, ascending."""
        labels = self.by_position
        return np.sort(labels if self.count == len(labels) else labels[labels >= 0])

    def positions_of(self, keys: Keys) -> Keys:
        """int64 [N]: where each key is, -1 for keys not held."""
        return self._pages().find(np.asarray(keys, np.int64))

    def append(self, keys: Keys) -> None:
        """Give the next positions to keys not held.

        Raises:
            ValueError: a key is out of range.
        """
        start = len(self._by_position)
        self.append_unnamed(len(keys))
        self.name(start, keys)

    def append_unnamed(self, number: int) -> None:
        """Add positions that have no key (yet)."""
        self._by_position.append(np.full(number, -1))

    def name(self, start: int, keys: Keys) -> None:
        """Give positions `start` and on, without a key so far, to keys not held."""
        self.check(keys)
        if self._made:
            self._made.enter(keys, np.arange(start, start + len(keys), dtype=np.int32))
        self.by_position[start : start + len(keys)] = keys
        self.count += len(keys)

    def drop(self, positions: Keys) -> None:
        """Take live, different positions from their keys."""
        if self._made:
            self._made.forget(self.by_position[positions])
        self.by_position[positions] = -1
        self.count -= len(positions)

    def _pages(self) -> _Pages:
        # Searches of several threads may come here at once: each makes the same, and one of them stays.
        made = self._made
        if made is None:
            made, keys = _Pages(), self.by_position
            live = np.arange(len(keys), dtype=np.int32)
            if self.dead:
                live = np.flatnonzero(keys >= 0).astype(np.int32)
                keys = keys[live]
            made.enter(keys, live)
            self._made = made
        return made


class _Pages:
    """Positions by key."""

    def __init__(self) -> None:
        self._directory = np.empty(0, np.int32)
        # Page 0 stays empty: directory entries of keys never seen point to it.
        self._pages = np.full((1, PAGE), -1, np.int32)
        self._num_pages = 1

    def find(self, keys: Keys) -> Keys:
        """int64 [N]: where each key is, -1 for keys not held."""
        pages = keys >> PAGE_BITS
        known = (pages >= 0) & (pages < len(self._directory))
        if not known.all():
            found = np.full(len(keys), -1, np.int64)
            found[known] = self.find(keys[known])
            return found
        return self._pages[self._directory[pages], keys & (PAGE - 1)].astype(np.int64)

    def enter(self, keys: Keys, positions: NDArray[np.int32]) -> None:
        """Remember where keys [N], in range, are."""
        if not len(keys):
            return
        pages = keys >> PAGE_BITS
        self._make(pages)
        self._pages[self._directory[pages], keys & (PAGE - 1)] = positions

    def forget(self, keys: Keys) -> None:
        """Forget keys that were entered."""
        self._pages[self._directory[keys >> PAGE_BITS], keys & (PAGE - 1)] = -1

    def _make(self, pages: Keys) -> None:
        missing = int(pages.max()) + 1 - len(self._directory)
        if missing > 0:
            self._directory = np.concatenate([self._directory, np.zeros(missing, np.int32)])
        wanted = np.zeros(len(self._directory), np.bool_)
        wanted[pages] = True
        fresh = np.flatnonzero(wanted & (self._directory == 0))
        if not len(fresh):
            return
        needed = self._num_pages + len(fresh)
        if needed > len(self._pages):
            room = np.full((max(needed, 2 * len(self._pages)), PAGE), -1, np.int32)
            room[: self._num_pages] = self._pages[: self._num_pages]
            self._pages = room
        self._directory[fresh] = np.arange(self._num_pages, needed, dtype=np.int32)
        self._num_pages = needed


def _any_repeated(keys: Keys) -> bool:
    """Whether a key in range comes twice; the order does not matter."""
    if (keys[1:] > keys[:-1]).all():
        return False
    span = int(keys.max()) + 1
    if span > _SPARSE * len(keys):
        ordered = np.sort(keys)
        return bool((ordered[1:] == ordered[:-1]).any())
    # Forty times faster than sorting.
    seen = np.zeros(span, np.bool_)
    seen[keys] = True
    return int(np.count_nonzero(seen)) < len(keys)
