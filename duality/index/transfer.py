"""Embedding files in, Parquet out.

The format: column `id` string, column `vector` a list of float32 of one length, and any other
columns, which are attributes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.artifacts import atomic_file
from duality.errors import DataError, suggestion
from duality.index.attributes import arrow_column
from duality.index.store import RecordStore

if TYPE_CHECKING:
    import pyarrow as pa


def read_embeddings(path: Path) -> pa.Table:
    """A Parquet (or CSV, without vectors) file with a column `id`.

    Raises:
        DataError: missing, unreadable, or without `id`.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        table = csv.read_csv(path) if str(path).endswith(".csv") else parquet.read_table(path)
    except FileNotFoundError:
        raise DataError("no such file", file=str(path)) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read ({str(error).splitlines()[0]})", file=str(path)) from None
    ids_of(table, str(path))
    return table


def ids_of(table: pa.Table, file: str | None = None) -> list[str]:
    """The ids of an embedding table; integers become decimal text.

    Raises:
        DataError: no column `id`, or one of another type.
    """
    from pyarrow import types

    if "id" not in table.column_names:
        hint = suggestion("id", table.column_names)
        raise DataError(f"no column id{hint}; columns: {', '.join(table.column_names)}", file=file)
    column = table.column("id")
    if not (
        types.is_string(column.type) or types.is_large_string(column.type) or types.is_integer(column.type)
    ):
        raise DataError(f"ids must be text, not {column.type}", file=file, column="id")
    return [str(id) if isinstance(id, int) else id for id in column.to_pylist()]


def vectors_of(table: pa.Table, file: str | None = None) -> NDArray[np.float32] | None:
    """float32 [N, D] of an embedding table, or None when it has no column `vector`.

    Raises:
        DataError: not lists of float32, nulls, or lists of different lengths; names the row.
    """
    import pyarrow as pa
    from pyarrow import compute, types

    if "vector" not in table.column_names:
        return None
    column = table.column("vector").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    lists = types.is_list(column.type) or types.is_large_list(column.type)
    if not (lists or types.is_fixed_size_list(column.type)) or not types.is_float32(column.type.value_type):
        raise DataError(f"vectors must be lists of float32, not {column.type}", file=file, column="vector")
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    dim = column.type.list_size if not lists else int(lengths[0]) if len(lengths) else 0
    bad = np.flatnonzero(~(lengths == dim))
    if len(bad):
        raise DataError(
            f"vector is missing or not of {dim} values", file=file, row=int(bad[0]) + 1, column="vector"
        )
    # Nulls inside lists become NaN here and are refused as not finite later.
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(len(column), dim)


def export_side(store: RecordStore, path: Path) -> int:
    """Write all records of a store as Parquet, in key order; returns how many."""
    from pyarrow import parquet

    kinds = store.kinds()
    shapes = {name: _shape(store, slot, kind) for slot, (name, kind) in enumerate(kinds.items())}
    written = 0
    with atomic_file(Path(path)) as temporary:
        schema = _table([], store.dim, kinds, shapes).schema
        with parquet.ParquetWriter(temporary, schema) as writer:
            for rows in store.raw_rows():
                writer.write_table(_table(rows, store.dim, kinds, shapes))
                written += len(rows)
    return written


def _table(
    rows: list[tuple[Any, ...]], dim: int, kinds: dict[str, str], shapes: dict[str, dict[str, Any]]
) -> pa.Table:
    import pyarrow as pa

    _, ids, blobs, _, *attributes = zip(*rows) if rows else [()] * (4 + len(kinds))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(b"".join(blobs), "<f4")), dim)
    arrays = [arrow_column(kinds[name], held, **shapes[name]) for name, held in zip(kinds, attributes)]
    return pa.table([pa.array(ids, pa.string()), vectors, *arrays], names=["id", "vector", *kinds])


def _shape(store: RecordStore, slot: int, kind: str) -> dict[str, Any]:
    """What decides the Arrow type of a column: its values, since stored numbers carry no width."""
    found = f"SELECT 1 FROM records WHERE a{slot} IS NOT NULL AND "
    fractions = store.one(found + f"typeof(a{slot}) = 'real' LIMIT 1") if kind == "number" else None
    times = store.one(found + f"length(a{slot}) > 10 LIMIT 1") if kind == "date" else None
    texts = None
    if kind == "list":
        elements = f"SELECT 1 FROM records, json_each(a{slot}) AS element WHERE element.type NOT IN "
        texts = store.one(elements + "('integer', 'real', 'null') LIMIT 1")
    return {"elements": "string" if texts else "number", "whole": not fractions, "days": not times}
