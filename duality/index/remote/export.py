"""Reading every row of a collection: to check it, or to write it as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import atomic_file
from duality.index.attributes import arrow_column
from duality.index.remote.connection import Store
from duality.index.remote.filters import ALL
from duality.index.remote.ledger import State
from duality.index.remote.records import Row, row_bytes
from duality.index.remote.rows import decoded, id_of, row_crc, slots_in, vectors_in

if TYPE_CHECKING:
    import pyarrow as pa

_CHECKED = ("id", "vector", "attributes", "crc")
_SHOWN = 3


def _blocks(store: Store, collection: str, state: State, fields: Sequence[str]) -> Iterator[list[Row]]:
    return store.scan(collection, fields, ALL, row_bytes(fields, state.dim))


def problems(store: Store, collection: str, side: str, state: State) -> list[str]:
    """What is damaged, one line each: rows that differ from their checksum, lost rows, a cut batch."""
    damaged, count = [], 0
    for rows in _blocks(store, collection, state, _CHECKED):
        count += len(rows)
        vectors = vectors_in(rows, state.dim)
        damaged += [
            id_of(row["id"])
            for row, vector in zip(rows, vectors)
            if row_crc(row["id"], vector, row["attributes"]) != row["crc"]
        ]
    found = []
    if damaged:
        shown = ", ".join(sorted(damaged)[:_SHOWN])
        found.append(f"{side}: {len(damaged)} damaged records ({shown}): upsert them again")
    if state.pending:
        found.append(f"{side}: a batch after version {state.version} was cut off: send it again")
    elif count != state.count:
        words = f"{count:,} records, and version {state.version} left {state.count:,}"
        found.append(f"{side}: the store holds {words}: build the index again")
    return found


def export_side(store: Store, collection: str, state: State, path: Path) -> int:
    """Write all records, in no order; returns how many.

    A path that ends in .npy gets the vectors, float32 [N, D], and the ids go beside it as
    NAME.ids.npy, text of one width; any other gets Parquet with the attributes.
    """
    path = Path(path)
    return (_export_arrays if path.suffix == ".npy" else _export_parquet)(store, collection, state, path)


def _export_arrays(store: Store, collection: str, state: State, path: Path) -> int:
    rows = [row for block in _blocks(store, collection, state, ("id", "vector")) for row in block]
    vectors = np.ascontiguousarray(vectors_in(rows, state.dim)[:, : state.dim])
    ids = np.array([id_of(row["id"]) for row in rows], dtype=str)
    for target, array in ((path, vectors), (path.with_suffix(".ids.npy"), ids)):
        with atomic_file(target) as temporary, open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
    return len(rows)


def _export_parquet(store: Store, collection: str, state: State, path: Path) -> int:
    from pyarrow import parquet

    shapes, written = _shapes(store, collection, state), 0
    with atomic_file(path) as temporary:
        schema = _table([], state, shapes).schema
        with parquet.ParquetWriter(temporary, schema) as writer:
            for rows in _blocks(store, collection, state, ("id", "vector", "attributes")):
                writer.write_table(_table(rows, state, shapes))
                written += len(rows)
    return written


def _table(rows: Sequence[Row], state: State, shapes: Sequence[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    vectors = np.ascontiguousarray(vectors_in(rows, state.dim)[:, : state.dim])
    arrays = [
        pa.array([id_of(row["id"]) for row in rows], pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), state.dim),
    ]
    held = [slots_in(row) for row in rows]
    for slot, ((_, kind), shape) in enumerate(zip(state.columns, shapes)):
        stored = [decoded(kind, row.get(slot)) for row in held]
        arrays.append(arrow_column(kind, stored, **shape))
    return pa.table(arrays, names=["id", "vector", *state.kinds()])


def _shapes(store: Store, collection: str, state: State) -> list[dict[str, Any]]:
    """What decides the Arrow type of each column: its values, since stored numbers carry no width."""
    shapes = [{"elements": "number", "whole": True, "days": True} for _ in state.columns]
    if not shapes:
        return shapes
    for rows in _blocks(store, collection, state, ("id", "attributes")):
        for row in rows:
            for slot, value in slots_in(row).items():
                _widen(shapes[slot], state.columns[slot][1], value)
    return shapes


def _widen(shape: dict[str, Any], kind: str, value: Any) -> None:
    if kind == "number" and isinstance(value, float):
        shape["whole"] = False
    elif kind == "date" and len(value) > len("2024-05-01"):
        shape["days"] = False
    elif kind == "list" and any(isinstance(element, str | bool) for element in value):
        shape["elements"] = "string"
