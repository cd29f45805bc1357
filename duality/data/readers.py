"""Sources into DuckDB tables: files, folders and frames, each recognised by what it is.

Reads:  Parquet, CSV/TSV, JSON lines, RecBole atomic files, MovieLens folders, folders with
        interactions.parquet, pandas and Polars frames, Arrow tables.
Writes: one DuckDB table per source, rows in source order, so that a row's `rowid` is its place
        in the file. Text formats stay text; types come later (kinds.py).
Not here: what the columns mean (columns.py), whether the cells are good (checks.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duality.data.checks import MAX_LINE_BYTES, reading
from duality.data.files import Source, distinct_names, find_file
from duality.data.folders import find_folder
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb


def find_source(source: Any, *, name: str | None = None) -> Source:
    """Recognise a source.

    Args:
        source: path of a file or folder, pandas or Polars frame, or Arrow table.
        name: what to call it in messages; the path itself by default.

    Raises:
        DataError: missing, empty, or of no known kind.
    """
    if not isinstance(source, (str, Path)):
        return _frame(source)
    path, label = Path(source), name or str(source)
    if path.is_dir():
        return replace(find_folder(path, label), title=path.resolve().name)
    if not path.is_file():
        raise DataError("no such file or folder", file=label)
    if path.name in ("ratings.dat", "u.data"):
        return find_folder(path.parent, label)
    return find_file(path, label)


def stage(connection: duckdb.DuckDBPyConnection, source: Source, table: str) -> None:
    """Copy a source into a new DuckDB table; row r of the source has rowid r (0-based).

    Raises:
        DataError: it cannot be read; file, row and column where known.
    """
    with reading(source.name, source.content, source.delimiter):
        if source.kind == "parquet":
            relation = connection.read_parquet(str(source.content))
        elif source.kind == "json":
            relation = _json_lines(connection, source)
        elif source.text:
            relation = _delimited(connection, source)
        else:
            relation = connection.from_arrow(source.content)
        if not relation.columns:
            raise DataError("it has no columns", file=source.name)
        relation.create(table)


def _delimited(connection: duckdb.DuckDBPyConnection, source: Source) -> duckdb.DuckDBPyRelation:
    assert source.names is not None
    quote = "" if source.kind == "recbole" or source.delimiter == "::" else '"'
    return connection.read_csv(
        str(source.content),
        delimiter=source.delimiter,
        header=not str(source.content).endswith((".dat", "u.data")),
        auto_detect=False,
        columns=dict.fromkeys(source.names, "VARCHAR"),
        quotechar=quote,
        escapechar=quote,
        null_padding=False,
        max_line_size=MAX_LINE_BYTES,
    )


def _json_lines(connection: duckdb.DuckDBPyConnection, source: Source) -> duckdb.DuckDBPyRelation:
    """Read objects, one per line; text that looks like a date or a UUID stays the text it is."""
    options: dict[str, Any] = {"format": "newline_delimited", "maximum_object_size": MAX_LINE_BYTES}
    found = connection.read_json(str(source.content), **options)
    types = {name: str(kind) for name, kind in zip(found.columns, found.types)}
    if list(types) == ["json"]:
        raise DataError("its lines are not JSON objects", file=source.name)
    for name, kind in types.items():
        if kind in ("DATE", "TIME", "TIMESTAMP", "UUID", "TIMESTAMP WITH TIME ZONE", "JSON"):
            types[name] = "VARCHAR"
    return connection.read_json(str(source.content), columns=types, **options)


def _frame(source: Any) -> Source:
    package = type(source).__module__.split(".")[0]
    import pyarrow as pa

    try:
        if package == "pandas":
            table = pa.Table.from_pandas(source, preserve_index=False)
        elif package == "polars":
            table = (source.collect() if hasattr(source, "collect") else source).to_arrow()
        elif isinstance(source, pa.Table):
            table = source
        else:
            kind = type(source).__name__
            raise DataError(
                f"cannot import a {kind}: give a path, a pandas or Polars frame or an Arrow table"
            )
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"the frame cannot become an Arrow table: {error}", file=type(source).__name__
        ) from None
    name = f"{package} {type(source).__name__}"
    distinct_names(list(table.column_names), name)
    return Source(name, "arrow", table)
