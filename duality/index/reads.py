"""Reads of one side's records; wrap several in `reading()` to see one commit.

Every record that is handed out has been compared with its checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DamageError, UnknownIdError, suggestion
from duality.index.attributes import outside
from duality.index.database import Database
from duality.index.head import ADVICE
from duality.predicates import parse, to_sql

# Rows or list elements per statement.
BLOCK = 20_000
_LISTED = "(SELECT value FROM json_each(?))"

Row = tuple[int, str, bytes, tuple[Any, ...]]


def row_digest(key: int, id: str, vector: bytes, values: Sequence[Any]) -> int:
    """64-bit signed digest of a record; null attributes do not count, so adding a column changes none."""
    held = [(slot, value) for slot, value in enumerate(values) if value is not None]
    tail = repr(held).encode() if held else b""
    data = b"%d\0%b\0%b%b" % (key, id.encode(), vector, tail)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def intact(key: Any, id: Any, vector: Any, digest: Any, values: Sequence[Any]) -> bool:
    """Whether a record agrees with its digest; a damaged file may give values of any type."""
    types = isinstance(key, int) and isinstance(id, str) and isinstance(vector, bytes)
    return types and row_digest(key, id, vector, values) == digest


class RecordReads(Database):
    """What can be asked of a store."""

    def count(self) -> int:
        """Records that are there."""
        return self.facts()["count"]

    def deleted(self) -> int:
        """Records removed since the last compaction."""
        return self.facts()["deleted"]

    def kinds(self) -> dict[str, str]:
        """Attribute name to kind, in the order the columns came."""
        return {name: kind for name, kind in self.facts()["columns"]}

    def held(self, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Key and digest of those ids that are stored."""
        sql = f"SELECT id, key, crc FROM records WHERE id IN {_LISTED}"
        return {id: (key, crc) for id, key, crc in self.by_list(sql, list(ids))}

    def keys_of(self, ids: Iterable[str]) -> dict[str, int]:
        """Keys of those ids that are stored."""
        return dict(self.by_list(f"SELECT id, key FROM records WHERE id IN {_LISTED}", list(ids)))

    def keys_where(self, where: str) -> NDArray[np.int64]:
        """Keys of the records that match a filter, ascending.

        Raises:
            FilterError: the filter does not parse or does not fit the columns.
        """
        condition, parameters = self._condition(where)
        # One text of all keys: a Python object per key would cost twice as much as the scan.
        keys = f"SELECT key FROM records WHERE {condition} ORDER BY key"
        text = self.one(f"SELECT group_concat(key) FROM ({keys})", parameters)
        return np.fromstring(text, np.int64, sep=",") if text else np.empty(0, np.int64)

    def ids_where(self, where: str) -> list[str]:
        """Ids of the records that match a filter; raises as `keys_where`."""
        condition, parameters = self._condition(where)
        rows = self._connection.execute(f"SELECT id FROM records WHERE {condition}", parameters)
        return [id for (id,) in rows]

    def near(self, id: str) -> str:
        """' (did you mean a, b?)' among ids that sort beside this one; '' on an empty side."""
        after = "SELECT id FROM records WHERE id >= ? ORDER BY id LIMIT 50"
        before = "SELECT id FROM records WHERE id < ? ORDER BY id DESC LIMIT 50"
        above, below = (
            [found for (found,) in self._connection.execute(sql, (id,))] for sql in (after, before)
        )
        beside = ", ".join(below[:1] + above[:1])
        return suggestion(id, below + above) or (f" (beside it: {beside})" if beside else "")

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 [N, dim] in the order of `ids`.

        Raises:
            UnknownIdError: an id is not stored; near ones are suggested.
        """
        held = {id: vector for _, id, vector, _ in self._listed("id", list(dict.fromkeys(ids)))}
        for id in ids:
            if id not in held:
                raise UnknownIdError(f"{self.path.stem} index: no id {id}{self.near(id)}")
        return self.matrix([held[id] for id in ids])

    def records(
        self, *, ids: Sequence[str] | None = None, where: str | None = None, limit: int = -1, after: str = ""
    ) -> list[dict[str, Any]]:
        """Records {id, vector float32 [dim], attributes}, by id: the given ids, or a filter's page."""
        columns = list(self.kinds().items())
        if ids is not None:
            rows = self._listed("id", list(ids))
        else:
            condition, parameters = self._condition(where)
            page = f"WHERE id > ? AND {condition} ORDER BY id LIMIT ?"
            rows = self._rows(page, (after, *parameters, limit), len(columns))
        return [
            {"id": id, "vector": self.matrix([vector])[0], "attributes": _outside(columns, values)}
            for _, id, vector, values in rows
        ]

    def attributes_of(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Attributes of those ids that are stored."""
        columns = list(self.kinds().items())
        return {id: _outside(columns, values) for _, id, _, values in self._listed("id", list(ids))}

    def checked(self, keys: Sequence[int], width: int | None = None) -> list[Row]:
        """Records (key, id, vector bytes, attribute values) of stored keys, by key.

        Raises:
            DamageError: a record is damaged, or is not there although it must be.
        """
        rows = sorted(self._listed("key", list(keys), width))
        if len(rows) != len(keys):
            raise DamageError(f"{self.path}: records are missing: {ADVICE}")
        return rows

    def sample(self, rows: int) -> NDArray[np.float32]:
        """Up to `rows` vectors float32 [N, dim], spread over the keys, the same at every call."""
        # Knuth's multiplicative hash puts the keys in an order of no meaning.
        sql = "SELECT key FROM records ORDER BY (key * 2654435761) % 4294967296 LIMIT ?"
        keys = [key for (key,) in self._connection.execute(sql, (rows,))]
        return self.matrix([vector for _, _, vector, _ in self.checked(keys)])

    def all_rows(self) -> Iterator[list[Row]]:
        """Blocks of records in key order, each checked.

        Raises:
            DamageError: a record is damaged, or their number is not what it must be.
        """
        rows, found = self._rows("ORDER BY key", (), len(self.kinds())), 0
        while block := [row for _, row in zip(range(BLOCK), rows)]:
            found += len(block)
            yield block
        if found != self.count():
            raise DamageError(f"{self.path} holds {found} records instead of {self.count()}: {ADVICE}")

    def vectors_in_order(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and vectors float32 [n, dim] of all records in the order of ids, a block at a time, each checked."""
        rows = self._rows("ORDER BY id", (), len(self.kinds()))
        while block := [(id, vector) for _, (_, id, vector, _) in zip(range(BLOCK), rows)]:
            yield [id for id, _ in block], self.matrix([vector for _, vector in block])

    def stored_digests(self) -> Iterator[list[tuple[Any, ...]]]:
        """Blocks of (key, id, vector bytes, digest, attribute values...) as they stand, unchecked."""
        columns = slot_columns(len(self.kinds()))
        cursor = self._connection.execute(f"SELECT key, id, vector, crc{columns} FROM records ORDER BY key")
        while rows := cursor.fetchmany(BLOCK):
            yield rows

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """First value of the first row of a read."""
        row = self._connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def by_list(self, sql: str, values: list[Any]) -> Iterator[tuple[Any, ...]]:
        """Rows of a statement whose one parameter is a JSON list, asked block by block."""
        for start in range(0, len(values), BLOCK):
            yield from self._connection.execute(sql, (json.dumps(values[start : start + BLOCK]),))

    def matrix(self, blobs: Sequence[bytes]) -> NDArray[np.float32]:
        """float32 [N, dim] of stored vectors."""
        data = b"".join(blobs)
        if len(data) != 4 * self.dim * len(blobs):
            raise DamageError(f"{self.path}: a stored vector is damaged: {ADVICE}")
        return np.frombuffer(data, "<f4").reshape(len(blobs), self.dim)

    def _condition(self, where: str | None) -> tuple[str, list[Any]]:
        if where is None:
            return "1", []
        kinds = self.kinds()
        names = {name: f"a{slot}" for slot, name in enumerate(kinds)}
        return to_sql(parse(where), {**kinds, "id": "string"}, names=names)

    def _listed(self, column: str, values: list[Any], width: int | None = None) -> Iterator[Row]:
        width = len(self.kinds()) if width is None else width
        for start in range(0, len(values), BLOCK):
            listed = json.dumps(values[start : start + BLOCK])
            yield from self._rows(f"WHERE {column} IN {_LISTED}", (listed,), width)

    def _rows(self, condition: str, parameters: Sequence[Any], width: int) -> Iterator[Row]:
        sql = f"SELECT key, id, vector, crc{slot_columns(width)} FROM records {condition}"
        for key, id, vector, crc, *values in self._connection.execute(sql, parameters):
            if not intact(key, id, vector, crc, values):
                raise DamageError(f"{self.path}: the record of id {id} is damaged: {ADVICE}")
            yield key, id, vector, tuple(values)


def slot_columns(width: int) -> str:
    """`, a0, a1, ...`: the attribute columns of a SELECT."""
    return "".join(f", a{slot}" for slot in range(width))


def _outside(columns: Sequence[tuple[str, str]], values: Sequence[Any]) -> dict[str, Any]:
    return {name: outside(kind, value) for (name, kind), value in zip(columns, values)}
