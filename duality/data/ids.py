"""External ids (strings) and dense rows (ints), both ways, without loading a table.

Reads:  `<side>.ids.bin` (UTF-8 bytes end to end), `<side>.ids.offsets.npy` int64 [N+1],
        `<side>.ids.order.npy` int64 [N] (rows in the order of their id's bytes).
Cost:   one binary search per looked-up id on memory-mapped files; many at once build a
        dictionary of all ids and keep it.

Shapes: N ids.
"""

from __future__ import annotations

import difflib
import itertools
import mmap
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from duality.errors import DamageError, InputError, UnknownIdError

SIDES = ("users", "items")
_MAKE = "duality data import SOURCE --out FOLDER"
# A dictionary of all ids costs about as much as this share of them looked up one by one.
_DICTIONARY_SHARE = 16


class Ids:
    """The ids of one side, memory-mapped.

    Args:
        side: "users" or "items".
        data: bytes of all ids, row after row.
        offsets: int64 [N+1]; id `r` is `data[offsets[r]:offsets[r+1]]`.
        order: int64 [N]; rows sorted by the bytes of their id.
    """

    def __init__(
        self, side: str, data: bytes | memoryview | mmap.mmap, offsets: np.ndarray, order: np.ndarray
    ) -> None:
        self.side = side
        self._data, self._offsets, self._order = memoryview(data), offsets, order

    @classmethod
    def open(cls, folder: Path, side: str) -> Ids:
        """Map the three files of one side.

        Raises:
            DamageError: a file is missing or its length does not fit the others.
        """
        names = [f"{side}.ids.bin", f"{side}.ids.offsets.npy", f"{side}.ids.order.npy"]
        try:
            with open(folder / names[0], "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offsets, order = (np.load(folder / name, mmap_mode="r") for name in names[1:])
        except (OSError, ValueError) as error:
            raise DamageError(
                f"{folder}: cannot read the ids of {side} ({error}): make it again with `{_MAKE}`"
            ) from None
        if len(offsets) != len(order) + 1 or int(offsets[-1]) != len(data):
            raise DamageError(f"{folder / names[0]} does not fit its offsets: make it again with `{_MAKE}`")
        return cls(side, data, offsets, order)

    def __len__(self) -> int:
        return len(self._order)

    def id(self, row: int) -> str:
        """The id of a row.

        Raises:
            IndexError: row outside 0..N-1.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} {self.side}")
        return self._bytes(row).decode()

    def ids(self, rows: Iterable[int] | np.ndarray) -> list[str]:
        """The ids of many rows, in the order given."""
        chosen = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(self)):
            raise IndexError(f"rows {chosen.min()}..{chosen.max()} of {len(self)} {self.side}")
        starts, ends = self._offsets[chosen].tolist(), self._offsets[chosen + 1].tolist()
        return [str(self._data[a:b], "utf-8") for a, b in zip(starts, ends)]

    def row(self, identifier: str) -> int:
        """The row of an id.

        Raises:
            UnknownIdError: nobody has it; the message names near ones.
        """
        found = self._search(_encode(identifier))
        if found < 0:
            near = ", ".join(self.near(identifier))
            raise UnknownIdError(f"no {self.side[:-1]} '{_short(identifier)}' (did you mean {near}?)")
        return found

    def rows(self, identifiers: Sequence[str]) -> np.ndarray:
        """int64 [len(identifiers)] rows.

        Raises:
            UnknownIdError: the first one that nobody has.
        """
        found = self.find(identifiers)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            self.row(identifiers[int(missing[0])])
        return found

    def find(self, identifiers: Sequence[str]) -> np.ndarray:
        """int64 [len(identifiers)] rows, -1 where nobody has the id."""
        if len(identifiers) * _DICTIONARY_SHARE > len(self):
            known = self._dictionary
            rows = [known.get(identifier, -1) for identifier in identifiers]
        else:
            rows = [self._search(_encode(identifier)) for identifier in identifiers]
        return np.asarray(rows, dtype=np.int64)

    def near(self, identifier: str, count: int = 3) -> list[str]:
        """Up to `count` ids that somebody who typed `identifier` may have meant, best first."""
        if not len(self):
            return []
        place = self._position(_encode(identifier))
        window = self._order[max(place - 100, 0) : place + 100]
        sample = np.linspace(0, len(self) - 1, min(len(self), 1000)).astype(np.int64)
        pool = dict.fromkeys(self.ids(window) + self.ids(sample))
        best = self._near_numbers(identifier, count) + difflib.get_close_matches(
            identifier[:64], list(pool), n=count, cutoff=0.6
        )
        neighbours = self.ids(self._order[max(place - 1, 0) : max(place - 1, 0) + 2])
        return list(dict.fromkeys(best or neighbours))[:count]

    def _near_numbers(self, identifier: str, count: int) -> list[str]:
        if not (identifier.isascii() and identifier.isdigit() and len(identifier) < 19):
            return []
        number = int(identifier)
        tried = [str(n) for step in range(1, 50) for n in (number - step, number + step) if n >= 0]
        return [text for text in [str(number), *tried] if self._search(text.encode()) >= 0][:count]

    def _bytes(self, row: int) -> bytes:
        return bytes(self._data[int(self._offsets[row]) : int(self._offsets[row + 1])])

    def _position(self, key: bytes) -> int:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(int(self._order[middle])) < key:
                low = middle + 1
            else:
                high = middle
        return low

    def _search(self, key: bytes) -> int:
        place = self._position(key)
        if place == len(self):
            return -1
        row = int(self._order[place])
        return row if self._bytes(row) == key else -1

    @cached_property
    def _dictionary(self) -> dict[str, int]:
        return {identifier: row for row, identifier in enumerate(self.ids(np.arange(len(self))))}


def write_ids(folder: Path, side: str, identifiers: Sequence[str]) -> None:
    """Write the three files of one side; `identifiers[r]` becomes row r.

    Raises:
        InputError: an id appears twice.
    """
    keys = [identifier.encode() for identifier in identifiers]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for before, after in itertools.pairwise(order):
        if keys[before] == keys[after]:
            raise InputError(f"{side}: id '{_short(identifiers[after])}' appears twice")
    offsets = np.zeros(len(keys) + 1, dtype=np.int64)
    np.cumsum([len(key) for key in keys], out=offsets[1:])
    (folder / f"{side}.ids.bin").write_bytes(b"".join(keys))
    np.save(folder / f"{side}.ids.offsets.npy", offsets)
    np.save(folder / f"{side}.ids.order.npy", np.asarray(order, dtype=np.int64))


def _encode(identifier: str) -> bytes:
    return identifier.encode("utf-8", "surrogatepass")


def _short(identifier: str) -> str:
    return identifier if len(identifier) <= 60 else identifier[:57] + "..."
