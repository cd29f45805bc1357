"""Reads of one side's records; wrap several in `reading()` to see one commit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DamageError, UnknownIdError, suggestion
from duality.index.attributes import outside
from duality.index.database import Database
from duality.predicates import parse, to_sql

# Rows or list elements per statement.
BLOCK = 20_000


class RecordReads(Database):
    """What can be asked of a store."""

    def count(self) -> int:
        """Records that are there."""
        return self._connection.execute("SELECT count(*) FROM records").fetchone()[0]

    def deleted(self) -> int:
        """Records removed since the last compaction."""
        return self._connection.execute("SELECT count(*) FROM tombstones").fetchone()[0]

    def kinds(self) -> dict[str, str]:
        """Attribute name to kind, in the order the columns came."""
        return {name: kind for name, kind, _ in self.columns()}

    def columns(self) -> list[tuple[str, str, int]]:
        """(name, kind, slot) of each attribute, by slot."""
        return self._connection.execute("SELECT name, kind, slot FROM attributes ORDER BY slot").fetchall()

    def _condition(self, where: str | None) -> tuple[str, list[Any]]:
        if where is None:
            return "1", []
        columns = self.columns()
        names = {name: f"a{slot}" for name, _, slot in columns}
        kinds = {name: kind for name, kind, _ in columns}
        return to_sql(parse(where), {**kinds, "id": "string"}, names=names)

    def keys_of(self, ids: Iterable[str]) -> dict[str, int]:
        """Keys of those ids that are stored."""
        sql = "SELECT id, key FROM records WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self.by_list(sql, list(ids)))

    def ids_of(self, keys: Iterable[int]) -> dict[int, str]:
        """Ids of those keys that are stored."""
        sql = "SELECT key, id FROM records WHERE key IN (SELECT value FROM json_each(?))"
        return dict(self.by_list(sql, list(keys)))

    def keys_where(self, where: str) -> NDArray[np.int64]:
        """Keys of the records that match a filter, ascending.

        Raises:
            FilterError: the filter does not parse or does not fit the columns.
        """
        condition, parameters = self._condition(where)
        rows = self._connection.execute(f"SELECT key FROM records WHERE {condition} ORDER BY key", parameters)
        return np.fromiter((key for (key,) in rows), np.int64)

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
        sql = "SELECT id, vector FROM records WHERE id IN (SELECT value FROM json_each(?))"
        held = dict(self.by_list(sql, list(dict.fromkeys(ids))))
        for id in ids:
            if id not in held:
                raise UnknownIdError(f"{self.path.stem} index: no id {id}{self.near(id)}")
        return self._matrix([held[id] for id in ids])

    def records(
        self, *, ids: Sequence[str] | None = None, where: str | None = None, limit: int = -1, after: str = ""
    ) -> list[dict[str, Any]]:
        """Records {id, vector float32 [dim], attributes}, by id: the given ids, or a filter's page."""
        columns = self.columns()
        sql = f"SELECT id, vector{slot_columns(columns)} FROM records WHERE "
        if ids is not None:
            rows = list(self.by_list(sql + "id IN (SELECT value FROM json_each(?))", list(ids)))
        else:
            condition, parameters = self._condition(where)
            page = f"id > ? AND {condition} ORDER BY id LIMIT ?"
            rows = self._connection.execute(sql + page, (after, *parameters, limit)).fetchall()
        return [
            {"id": id, "vector": self._matrix([vector])[0], "attributes": _outside(columns, values)}
            for id, vector, *values in rows
        ]

    def attributes_of(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Attributes of those ids that are stored, without reading vectors."""
        columns = self.columns()
        sql = f"SELECT id{slot_columns(columns)} FROM records WHERE id IN (SELECT value FROM json_each(?))"
        return {id: _outside(columns, values) for id, *values in self.by_list(sql, list(ids))}

    def changed(self, seq: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Keys [n] and vectors [n, dim] that changed after commit `seq`, in blocks, keys ascending."""
        # A scan in key order beats the seq index when every row is wanted.
        condition = f"WHERE seq > {int(seq)}" if seq else ""
        cursor = self._connection.execute(f"SELECT key, vector FROM records {condition} ORDER BY key")
        while rows := cursor.fetchmany(BLOCK):
            yield np.array([key for key, _ in rows], np.int64), self._matrix([vector for _, vector in rows])

    def removed(self, seq: int) -> NDArray[np.int64]:
        """Keys removed after commit `seq`."""
        rows = self._connection.execute("SELECT key FROM tombstones WHERE seq > ?", (seq,))
        return np.fromiter((key for (key,) in rows), np.int64)

    def changes(self, seq: int) -> int:
        """How many vectors changed or went after commit `seq`."""
        counts = [f"SELECT count(*) FROM {table} WHERE seq > ?" for table in ("records", "tombstones")]
        return sum(self.one(sql, (seq,)) for sql in counts)

    def raw_rows(self) -> Iterator[list[tuple[Any, ...]]]:
        """Blocks of (key, id, vector bytes, crc, attribute values...) in key order, for checks and export."""
        sql = f"SELECT key, id, vector, crc{slot_columns(self.columns())} FROM records ORDER BY key"
        cursor = self._connection.execute(sql)
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

    def _matrix(self, blobs: Sequence[bytes]) -> NDArray[np.float32]:
        data = b"".join(blobs)
        if len(data) != 4 * self.dim * len(blobs):
            raise DamageError(f"{self.path}: a stored vector is damaged: run `duality index verify`")
        return np.frombuffer(data, "<f4").reshape(len(blobs), self.dim)


def slot_columns(columns: Sequence[tuple[str, str, int]]) -> str:
    """`, a0, a1, ...`: the attribute columns of a SELECT."""
    return "".join(f", a{slot}" for _, _, slot in columns)


def _outside(columns: Sequence[tuple[str, str, int]], values: Sequence[Any]) -> dict[str, Any]:
    return {name: outside(kind, value) for (name, kind, _), value in zip(columns, values)}
