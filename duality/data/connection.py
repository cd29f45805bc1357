"""The DuckDB connection of an import: limited, silent, closed to everything but the source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from duality.errors import InputError
from duality.runtime import num_threads

if TYPE_CHECKING:
    import duckdb

_MAX_THREADS = 2


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


def relation(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    """A query whose result can be streamed as Arrow batches while the connection does other work."""
    return _settled(connection.cursor()).sql(query)


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
