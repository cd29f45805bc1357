"""Records of one side: the truth that search structures are derived from.

Writes: rows inside a transaction of database.py; whoever calls has checked them (batches.py).
Reads:  reads.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import InputError
from duality.index.attributes import Column
from duality.index.reads import BLOCK, RecordReads, slot_columns


def row_crc(id: str, vector: bytes, values: Sequence[Any]) -> int:
    """CRC-32 of a record; null attributes do not count, so adding a column changes none."""
    crc = zlib.crc32(vector, zlib.crc32(id.encode()))
    held = [(slot, value) for slot, value in enumerate(values) if value is not None]
    return zlib.crc32(repr(held).encode(), crc) if held else crc


class RecordStore(RecordReads):
    """Reads and writes; not safe to share between threads unlocked. Writes go inside `writing()`."""

    def add_columns(self, columns: Mapping[str, Column]) -> dict[str, int]:
        """Make missing attribute columns; slots by name.

        Raises:
            InputError: a column is stored with another kind.
        """
        held = {name: (kind, slot) for name, kind, slot in self.columns()}
        for name, column in columns.items():
            if name not in held:
                held[name] = (column.kind, len(held))
                self._connection.execute(f"ALTER TABLE records ADD COLUMN a{len(held) - 1}")
                self._connection.execute("INSERT INTO attributes VALUES (?, ?, ?)", (name, *held[name]))
            elif held[name][0] != column.kind:
                raise InputError(f"attribute {name} is stored as {held[name][0]}, not as {column.kind}")
        return {name: held[name][1] for name in columns}

    def insert(
        self, ids: Sequence[str], vectors: NDArray[np.float32], columns: Mapping[str, Column], seq: int
    ) -> None:
        """Add records whose ids are not stored yet."""
        slots = self.add_columns(columns)
        width = len(self.columns())
        by_slot: list[Sequence[Any]] = [[None] * len(ids)] * width
        for name, slot in slots.items():
            by_slot[slot] = columns[name].values
        start = self.meta("next_key")
        rows = (
            (start + n, id, vector, row_crc(id, vector, values), seq, *values)
            for n, (id, vector, values) in enumerate(zip(ids, _blobs(vectors), _by_row(by_slot, len(ids))))
        )
        self._connection.executemany(f"INSERT INTO records VALUES ({', '.join('?' * (5 + width))})", rows)
        self.set_meta("next_key", start + len(ids))

    def update(
        self,
        keys: Sequence[int],
        vectors: NDArray[np.float32] | None,
        columns: Mapping[str, Column],
        seq: int,
    ) -> None:
        """Change stored records; vectors None keeps them. Keys ascending write fastest."""
        slots = self.add_columns(columns)
        if vectors is not None:
            rows = zip(_blobs(vectors), [seq] * len(keys), keys)
            self._connection.executemany("UPDATE records SET vector = ?, seq = ? WHERE key = ?", rows)
        if slots:
            changes = ", ".join(f"a{slot} = ?" for slot in slots.values())
            values = zip(*[columns[name].values for name in slots], keys)
            self._connection.executemany(f"UPDATE records SET {changes} WHERE key = ?", values)
        self._seal(keys)

    def _seal(self, keys: Sequence[int]) -> None:
        listed = "SELECT value FROM json_each(?)"
        sql = f"SELECT key, id, vector{slot_columns(self.columns())} FROM records WHERE key IN ({listed})"
        for start in range(0, len(keys), BLOCK):
            rows = list(self.by_list(sql, list(keys[start : start + BLOCK])))
            sealed = [(row_crc(id, vector, values), key) for key, id, vector, *values in rows]
            self._connection.executemany("UPDATE records SET crc = ? WHERE key = ?", sealed)

    def remove(self, keys: Sequence[int], seq: int) -> None:
        """Remove stored records."""
        self._connection.executemany("DELETE FROM records WHERE key = ?", ((key,) for key in keys))
        self._connection.executemany("INSERT INTO tombstones VALUES (?, ?)", ((key, seq) for key in keys))


def _blobs(vectors: NDArray[np.float32]) -> Iterator[bytes]:
    data, width = np.ascontiguousarray(vectors, "<f4").tobytes(), 4 * vectors.shape[1]
    return (data[start : start + width] for start in range(0, len(data), width))


def _by_row(by_slot: Sequence[Sequence[Any]], rows: int) -> Iterator[tuple[Any, ...]]:
    return zip(*by_slot) if by_slot else iter([()] * rows)
