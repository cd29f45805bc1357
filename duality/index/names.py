"""External ids of keys, for naming results without asking SQLite.

Ids never change for a key, so the names of a snapshot stay right; later keys are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from duality.errors import DamageError

# Decoded ids that are kept; beyond that the table of them starts anew.
_CACHED = 500_000
ARRAYS = ("name_keys", "name_offsets", "name_bytes")


class Names:
    """Key to id.

    Args:
        keys: int64 [N], ascending.
        offsets: int64 [N + 1], where each id starts in `data`.
        data: uint8, the ids in UTF-8, one after the other.

    Raises:
        DamageError: the arrays do not fit each other.
    """

    def __init__(self, keys: NDArray[np.int64], offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        # Plain arrays over the same memory: slicing a memory map costs microseconds.
        self._keys, self._offsets = np.asarray(keys).view(np.ndarray), np.asarray(offsets).view(np.ndarray)
        fits = len(offsets) == len(keys) + 1 and offsets[0] == 0 and offsets[-1] == len(data)
        keys, offsets = self._keys, self._offsets
        if not fits or (offsets[1:] < offsets[:-1]).any() or (keys[1:] <= keys[:-1]).any():
            raise DamageError("the names of a snapshot do not fit each other")
        self._data = np.ascontiguousarray(data).view(np.ndarray).data
        # Ids that came later than the arrays.
        self._later: dict[int, str] = {}
        self._forget(int(self._keys[-1]) if len(self._keys) else 0)

    @classmethod
    def collect(cls, blocks: Iterable[tuple[Sequence[int], Sequence[str]]]) -> Names:
        """Names from blocks of keys and ids, keys ascending."""
        keys: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        data = [b""]
        for some, ids in blocks:
            encoded = [id.encode() for id in ids]
            keys.append(np.array(some, np.int64))
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            data.append(b"".join(encoded))
        joined = np.frombuffer(b"".join(data), np.uint8)
        return cls(np.concatenate(keys), np.cumsum(np.concatenate(lengths)), joined)

    def add(self, names: Mapping[int, str]) -> None:
        """Remember the ids of keys that came later."""
        self._later.update(names)
        largest = max(names, default=0)
        if largest + 1 >= len(self._decoded_ids[1]):
            self._forget(2 * largest)

    def arrays(self, keys: NDArray[np.int64]) -> dict[str, NDArray]:
        """The names of `keys` (ascending) as arrays for a snapshot."""
        if not self._later and np.array_equal(keys, self._keys):
            return dict(zip(ARRAYS, (self._keys, self._offsets, np.asarray(self._data))))
        ids = self.of(keys).tolist()
        made = Names.collect([(keys.tolist(), ids)])
        return dict(zip(ARRAYS, (made._keys, made._offsets, np.asarray(made._data))))

    def of(self, keys: NDArray[np.int64]) -> NDArray[np.object_]:
        """Ids, object of the shape of `keys`; None where a key is -1 or unknown."""
        table, known = self._decoded_ids
        if np.count_nonzero(known.take(keys)) < keys.size:
            missing = {key for key in keys.ravel().tolist() if not known[key]}
            fresh = self._decoded(missing)
            if self._decodings + len(fresh) > _CACHED:
                self._forget(len(table))
            self._decodings += len(fresh)
            table[list(fresh)] = list(fresh.values())
            known[list(fresh)] = True
        return table[keys]

    def _forget(self, largest: int) -> None:
        """Start the table of decoded ids anew: by key; its last place, which key -1 means, stays None."""
        # Another thread may be reading the old ones, so they are replaced, both at once, not cleared.
        # Places cost memory only once they are touched.
        known = np.zeros(largest + 2, bool)
        known[-1] = True
        self._decoded_ids, self._decodings = (np.empty(largest + 2, object), known), 0

    def _decoded(self, wanted: set[int]) -> dict[int, str]:
        keys = np.fromiter(wanted, np.int64, len(wanted))
        rows = np.searchsorted(self._keys, keys)
        rows[rows == len(self._keys)] = 0
        known = self._keys[rows] == keys if len(self._keys) else np.zeros(len(keys), np.bool_)
        starts, ends = self._offsets[rows[known]].tolist(), self._offsets[rows[known] + 1].tolist()
        data, later = self._data, self._later
        names = (str(data[start:end], "utf-8", "replace") for start, end in zip(starts, ends))
        old = dict(zip(keys[known].tolist(), names))
        return old | {key: later[key] for key in keys[~known].tolist() if key in later}
