"""Records of one side: the truth that search structures are derived from.

Writes: rows inside a commit of database.py; whoever calls has checked them (batches.py).
Reads:  reads.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DataError, InputError
from duality.index.attributes import Column
from duality.index.database import Commit
from duality.index.reads import RecordReads, row_digest

Vectors = NDArray[np.float32]


class RecordStore(RecordReads):
    """Reads and writes; not safe to share between threads unlocked. Writes go inside a commit."""

    def upsert(
        self, ids: Sequence[str], vectors: Vectors | None, columns: Mapping[str, Column], commit: Commit
    ) -> NDArray[np.int64]:
        """Insert records, or change those whose id is stored; vectors None changes attributes only.

        Returns:
            Keys int64 [N] in the order of `ids`.

        Raises:
            DataError: vectors is None and an id is not stored; names the row.
            InputError: an attribute is stored with another kind.
        """
        held = self.held(ids)
        new = [row for row, id in enumerate(ids) if id not in held]
        if new and vectors is None:
            raise DataError(f"id {ids[new[0]]} is not stored and has no vector", row=new[0] + 1)
        slots = self._slots(columns, commit)
        # Keys ascending write fastest: neighbours share pages.
        old = sorted((row for row, id in enumerate(ids) if id in held), key=lambda row: held[ids[row]][0])
        keys = np.array([held[id][0] if id in held else -1 for id in ids], np.int64)
        if old:
            before = [held[ids[row]][1] for row in old]
            self._update(ids, keys, old, before, vectors, columns, slots, commit)
        if new and vectors is not None:
            taken = {name: column.take(new) for name, column in columns.items()}
            keys[new] = self.insert([ids[row] for row in new], vectors[new], taken, commit)
        if vectors is not None:
            commit.changed = np.sort(keys)
        return keys

    def insert(
        self, ids: Sequence[str], vectors: Vectors, columns: Mapping[str, Column], commit: Commit
    ) -> NDArray[np.int64]:
        """Add records whose ids are not stored yet; their keys int64 [N]."""
        slots = self._slots(columns, commit)
        width, start = len(commit.facts["columns"]), commit.facts["next_key"]
        by_slot: list[Sequence[Any]] = [[None] * len(ids)] * width
        for name, slot in slots.items():
            by_slot[slot] = columns[name].values
        values = _by_row(by_slot, len(ids))
        rows = [
            (key, id, vector, row_digest(key, id, vector, held), *held)
            for key, (id, vector, held) in enumerate(zip(ids, _blobs(vectors), values), start)
        ]
        self._connection.executemany(f"INSERT INTO records VALUES ({', '.join('?' * (4 + width))})", rows)
        commit.count_in(sum(row[3] for row in rows))
        commit.facts["next_key"] += len(ids)
        commit.facts["count"] += len(ids)
        return np.arange(start, start + len(ids))

    def remove(self, keys: Sequence[int], commit: Commit) -> None:
        """Remove stored records."""
        sql = "SELECT crc FROM records WHERE key IN (SELECT value FROM json_each(?))"
        commit.count_in(-sum(crc for (crc,) in self.by_list(sql, list(keys))))
        self._connection.executemany("DELETE FROM records WHERE key = ?", ((key,) for key in keys))
        commit.removed = np.array(sorted(keys), np.int64)
        commit.facts["count"] -= len(keys)
        commit.facts["deleted"] += len(keys)

    def _slots(self, columns: Mapping[str, Column], commit: Commit) -> dict[str, int]:
        listed = commit.facts["columns"]
        held = {name: (kind, slot) for slot, (name, kind) in enumerate(listed)}
        for name, column in columns.items():
            if name not in held:
                held[name] = (column.kind, len(held))
                listed.append([name, column.kind])
                self._connection.execute(f"ALTER TABLE records ADD COLUMN a{held[name][1]}")
            elif held[name][0] != column.kind:
                raise InputError(f"attribute {name} is stored as {held[name][0]}, not as {column.kind}")
        return {name: held[name][1] for name in columns}

    def _update(
        self,
        ids: Sequence[str],
        keys: NDArray[np.int64],
        rows: Sequence[int],
        before: Sequence[int],
        vectors: Vectors | None,
        columns: Mapping[str, Column],
        slots: Mapping[str, int],
        commit: Commit,
    ) -> None:
        """Change stored records: `rows` are positions in the batch, `before` their digests."""
        chosen = [int(keys[row]) for row in rows]
        blobs = None if vectors is None else list(_blobs(vectors[rows]))
        width = len(commit.facts["columns"])
        # A record's digest covers all of it, so what the batch does not bring is read (and checked).
        kept = {}
        if blobs is None or len(slots) < width:
            kept = {key: (vector, values) for key, _, vector, values in self.checked(chosen, width)}
        changes = []
        for place, (row, key) in enumerate(zip(rows, chosen)):
            vector, values = kept.get(key, (b"", ()))
            vector = blobs[place] if blobs is not None else vector
            merged = list(values) or [None] * width
            for name, slot in slots.items():
                merged[slot] = columns[name].values[row]
            mine = [merged[slot] for slot in slots.values()]
            changes.append((vector, row_digest(key, ids[row], vector, merged), *mine, key))
        assignments = "".join(f", a{slot} = ?" for slot in slots.values())
        sql = f"UPDATE records SET vector = ?, crc = ?{assignments} WHERE key = ?"
        self._connection.executemany(sql, changes)
        commit.count_in(sum(change[1] for change in changes) - sum(before))


def _blobs(vectors: Vectors) -> Iterator[bytes]:
    data, width = np.ascontiguousarray(vectors, "<f4").tobytes(), 4 * vectors.shape[1]
    return (data[start : start + width] for start in range(0, len(data), width))


def _by_row(by_slot: Sequence[Sequence[Any]], rows: int) -> Iterator[tuple[Any, ...]]:
    return zip(*by_slot) if by_slot else iter([()] * rows)
