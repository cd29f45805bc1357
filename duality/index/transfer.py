"""Embedding files in, Parquet out.

The format: column `id` string, column `vector` a list of float32 of one length, and any other
columns, which are attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.artifacts import atomic_file
from duality.errors import DataError, suggestion
from duality.index.attributes import arrow_column
from duality.index.reads import RecordReads, Row

if TYPE_CHECKING:
    import pyarrow as pa


# Rows that are read, checked and stored at a time.
BATCH = 50_000
# Where an embedding file says which model made its vectors.
MODEL_KEY = b"duality.model"


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


@dataclass(frozen=True)
class Source:
    """Embeddings that are read batch by batch: a table, or a Parquet file.

    Attributes:
        file: what to call it in messages.
        rows, dim: N and D.
        model: fingerprint of the model that made the vectors, if it is recorded.
        stamp: what tells this file from a changed one; "" for a table.
    """

    file: str
    rows: int
    dim: int
    model: str | None
    stamp: str
    table: pa.Table | None = None

    @classmethod
    def of(cls, source: pa.Table | str | Path, name: str) -> Source:
        """Look at a table or file.

        Raises:
            DataError: missing, unreadable, or without ids and vectors of at least one value.
        """
        if not isinstance(source, str | Path):
            return cls(name, source.num_rows, _dim(source, name), recorded_model(source.schema), "", source)
        file, path = str(source), Path(source)
        if path.suffix == ".csv":
            raise DataError("vectors come in Parquet files, not in CSV", file=file)
        opened = _parquet(path)
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
        first = next(opened.iter_batches(1), None)
        dim = _dim(_as_table(first) if first is not None else schema.empty_table(), file)
        found = path.stat()
        stamp = f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"
        return cls(file, rows, dim, recorded_model(schema), stamp)

    def batches(self, skip: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """Tables of at most BATCH rows after the first `skip` rows, each with the number of rows before it."""
        start = 0
        for table in self._tables():
            first, start = start, start + table.num_rows
            if start > skip:
                yield max(first, skip), table.slice(max(0, skip - first))

    def _tables(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        if self.table is not None:
            batches = self.table.combine_chunks().to_batches(max_chunksize=BATCH)
            yield from (_as_table(batch) for batch in batches)
            return
        try:
            for batch in _parquet(Path(self.file)).iter_batches(BATCH):
                yield _as_table(batch)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"cannot be read ({str(error).splitlines()[0]})", file=self.file) from None


def recorded_model(schema: pa.Schema) -> str | None:
    """Fingerprint of the model that made the vectors of a table or file, if it says."""
    found = (schema.metadata or {}).get(MODEL_KEY)
    return found.decode("utf-8", "replace") if found else None


def _as_table(batch: pa.RecordBatch) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches([batch])


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except FileNotFoundError:
        raise DataError("no such file", file=str(path)) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read ({str(error).splitlines()[0]})", file=str(path)) from None


def _dim(table: pa.Table, file: str) -> int:
    ids_of(table, file)
    vectors = vectors_of(table.slice(0, 1), file)
    if vectors is None or vectors.shape[1] == 0:
        raise DataError("no column vector of at least one value", file=file)
    return vectors.shape[1]


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


def export_side(store: RecordReads, path: Path) -> int:
    """Write all records of a store, in key order; returns how many.

    A path that ends in .npy gets the vectors, float32 [N, dim], and the ids go beside it as
    NAME.ids.npy, text of one width; any other gets Parquet with the attributes.
    """
    if Path(path).suffix == ".npy":
        return _export_arrays(store, Path(path))
    return _export_parquet(store, Path(path))


def _export_arrays(store: RecordReads, path: Path) -> int:
    ids: list[str] = []
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (store.count(), store.dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in store.all_rows():
            ids += [id for _, id, _, _ in rows]
            file.write(b"".join(vector for _, _, vector, _ in rows))
    with atomic_file(path.with_suffix(".ids.npy")) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(ids, dtype=str), allow_pickle=False)
    return len(ids)


def _export_parquet(store: RecordReads, path: Path) -> int:
    from pyarrow import parquet

    kinds = store.kinds()
    shapes = {name: _shape(store, slot, kind) for slot, (name, kind) in enumerate(kinds.items())}
    written = 0
    with atomic_file(Path(path)) as temporary:
        schema = _table([], store.dim, kinds, shapes).schema
        with parquet.ParquetWriter(temporary, schema) as writer:
            for rows in store.all_rows():
                writer.write_table(_table(rows, store.dim, kinds, shapes))
                written += len(rows)
    return written


def _table(rows: list[Row], dim: int, kinds: dict[str, str], shapes: dict[str, dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    _, ids, blobs, values = zip(*rows) if rows else [()] * 4
    attributes = list(zip(*values)) if rows else [()] * len(kinds)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(b"".join(blobs), "<f4")), dim)
    arrays = [arrow_column(kinds[name], held, **shapes[name]) for name, held in zip(kinds, attributes)]
    return pa.table([pa.array(ids, pa.string()), vectors, *arrays], names=["id", "vector", *kinds])


def _shape(store: RecordReads, slot: int, kind: str) -> dict[str, Any]:
    """What decides the Arrow type of a column: its values, since stored numbers carry no width."""
    found = f"SELECT 1 FROM records WHERE a{slot} IS NOT NULL AND "
    fractions = store.one(found + f"typeof(a{slot}) = 'real' LIMIT 1") if kind == "number" else None
    times = store.one(found + f"length(a{slot}) > 10 LIMIT 1") if kind == "date" else None
    texts = None
    if kind == "list":
        elements = f"SELECT 1 FROM records, json_each(a{slot}) AS element WHERE element.type NOT IN "
        texts = store.one(elements + "('integer', 'real', 'null') LIMIT 1")
    return {"elements": "string" if texts else "number", "whole": not fractions, "days": not times}
