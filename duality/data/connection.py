"""The DuckDB connection of an import: limited, silent, closed to everything but the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duality.errors import InputError
from duality.runtime import num_threads

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_MAX_THREADS = 2
_BATCH_ROWS = 1 << 18


def connect(folder: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database in the folder `work` under `folder`, limited in memory and threads.

    Raises:
        InputError: the memory limit is none.
    """
    import duckdb

    work = folder / "work"
    work.mkdir()
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        "threads": min(num_threads(), _MAX_THREADS),
        "temp_directory": str(work / "spill"),
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
    }
    try:
        connection = duckdb.connect(str(work / "import.duckdb"), config=config)
    except duckdb.Error as error:
        raise InputError(f"--memory-limit {memory_limit}: {str(error).splitlines()[0][:200]}") from None
    return _settled(connection)


def stream(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query as Arrow batches of some 260,000 rows, in its order.

    Uses a connection of its own, so that `connection` is free for other work meanwhile.
    """
    cursor = _settled(connection.cursor())
    relation = cursor.sql(query)
    # The method was renamed after DuckDB 1.4; the old name warns in newer releases.
    reader = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
    yield from reader(_BATCH_ROWS)
    cursor.close()


def read_table(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """The rows of a query as one Arrow table."""
    cursor = _settled(connection.cursor())
    table = cursor.sql(query).to_arrow_table()
    cursor.close()
    return table


def one_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The single row that an aggregate query returns."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def quoted(name: str) -> str:
    """A column name as an SQL identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def _settled(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Apply the settings that every connection has of its own."""
    # The progress bar goes to stdout, which belongs to the answer.
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET TimeZone = 'UTC'")
    return connection
