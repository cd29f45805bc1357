"""What can be wrong with a source, said in one line: file, row, column, how to mend it."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from duality.data.connection import one_row, quoted
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb

MAX_CELL_BYTES = 1 << 20
MAX_ID_BYTES = 1024
MAX_LINE_BYTES = 2 << 20
_LINE = re.compile(r"(?:Error on Line|in line|at line|line)[: ]+(\d+)", re.IGNORECASE)


@contextmanager
def reading(name: str, content: Any, delimiter: str | None) -> Iterator[None]:
    """Turn what DuckDB says about a source into one DataError."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise DataError("does not fit the memory limit: raise --memory-limit", file=name) from None
    except duckdb.Error as error:
        raise _explained(str(error), name, content, delimiter) from None


def _explained(message: str, name: str, content: Any, delimiter: str | None) -> DataError:
    match = _LINE.search(message)
    line = int(match.group(1)) if match else None
    if delimiter is not None:
        headed = 0 if str(content).endswith((".dat", "u.data")) else 1
        row = None if line is None else max(line - headed, 1)
        return _csv_problem(message, name, content, delimiter, line, row)
    if isinstance(content, Path) and content.suffix in (".parquet", ".pq"):
        return _parquet_problem(message, name, content)
    if "maximum_object_size" in message:
        return DataError("a line is longer than 2 MB: shorten its cells to under 1 MB", file=name, row=line)
    first = message.splitlines()[0].split("Error: ", 1)[-1]
    return DataError(f"cannot be read: {first[:200]}", file=name, row=line)


def _csv_problem(
    message: str, name: str, content: Any, delimiter: str, line: int | None, row: int | None
) -> DataError:
    if "Maximum line size" in message or "line size" in message:
        column = _long_cell(Path(content), line, delimiter) if line else None
        return DataError("a cell is longer than 1 MB: shorten or drop it", file=name, row=row, column=column)
    if "not utf-8" in message.lower() or "unicode" in message.lower():
        return DataError("not UTF-8: save the file as UTF-8", file=name, row=row)
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if counts and int(counts.group(2)) > int(counts.group(1)):
        return DataError(f"more than the header's {counts.group(1)} columns", file=name, row=row)
    if counts:
        return DataError(f"{counts.group(2)} columns, the header has {counts.group(1)}", file=name, row=row)
    if "unterminated quote" in message.lower():
        return DataError("a quote is opened and never closed", file=name, row=row)
    first = message.splitlines()[0].split("Error: ", 1)[-1]
    return DataError(f"cannot be read as delimited text: {first[:200]}", file=name, row=row)


def _parquet_problem(message: str, name: str, content: Path) -> DataError:
    with open(content, "rb") as file:
        head = file.read(4)
        file.seek(-min(4, content.stat().st_size), 2)
        tail = file.read(4)
    if head != b"PAR1":
        return DataError("not a Parquet file: its first bytes are not PAR1", file=name)
    if tail != b"PAR1":
        return DataError("truncated Parquet file (its end is missing): copy or download it again", file=name)
    first = message.splitlines()[0].split("Error: ", 1)[-1]
    return DataError(f"damaged Parquet file, copy or download it again: {first[:200]}", file=name)


def _long_cell(path: Path, line: int, delimiter: str) -> str | None:
    """Name the column of the first cell over the limit on a line, reading no more than two lines' worth."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        header = _line(file)
        for _ in range(line - 2):
            _line(file)
        text = _line(file).decode("utf-8", "replace")
    names = next(csv.reader([header.decode("utf-8-sig", "replace").strip()], delimiter=delimiter))
    place = 0
    for cell in text.split(delimiter):
        if len(cell) > MAX_CELL_BYTES:
            break
        place += 1
    return names[place] if place < len(names) else None


def _line(file: IO[bytes]) -> bytes:
    """The start of the next line, bounded; the rest of it is skipped."""
    start = file.readline(2 * MAX_LINE_BYTES)
    piece = start
    while piece and not piece.endswith(b"\n"):
        piece = file.readline(MAX_LINE_BYTES)
    return start


def check_cells(
    connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], name: str
) -> None:
    """Refuse cells over 1 MB.

    Args:
        table: a staged table.
        columns: its columns, name to DuckDB type.

    Raises:
        DataError: row and column of the first.
    """
    for column, kind in columns.items():
        if _may_be_long(kind):
            cell = quoted(column)
            size = f"octet_length({cell})" if kind == "BLOB" else f"strlen({cell}::VARCHAR)"
            row = first_row(connection, table, f"{size} > {MAX_CELL_BYTES}")
            if row is not None:
                raise DataError(
                    "a cell is longer than 1 MB: shorten or drop it", file=name, row=row, column=column
                )


def _may_be_long(kind: str) -> bool:
    nested = kind.endswith(("]", ")")) and not kind.startswith("DECIMAL")
    return nested or kind in ("VARCHAR", "BLOB")


def check_ids(
    connection: duckdb.DuckDBPyConnection, view: str, internal: str, name: str, column: str, *, text: bool
) -> None:
    """Refuse ids that are missing, NaN, empty or over 1,024 bytes.

    Args:
        view: has `__src` (0-based source row) and the id, as text, in column `internal`.
        text: the source is untyped text, where a missing number may be spelled "nan".

    Raises:
        DataError: row and column of the first.
    """
    missing = f"{internal} IS NULL OR {internal} = ''"
    long = f"strlen({internal}) > {MAX_ID_BYTES}"
    bad_missing, bad_long, spelled, numbers, others = one_row(
        connection,
        f"SELECT count(*) FILTER ({missing}), count(*) FILTER ({long}), "
        f"count(*) FILTER (lower({internal}) = 'nan'), "
        f"count(*) FILTER (lower({internal}) <> 'nan' AND try_cast({internal} AS DOUBLE) IS NOT NULL), "
        f"count(*) FILTER (lower({internal}) <> 'nan') FROM {view}",
    )
    if text and numbers == others:
        missing, bad_missing = f"{missing} OR lower({internal}) = 'nan'", bad_missing + spelled
    if bad_missing:
        row = first_source_row(connection, view, missing)
        rows = "1 row" if bad_missing == 1 else f"{bad_missing:,} rows"
        raise DataError(
            f"no id in {rows} (empty, null or NaN): drop or mend", file=name, row=row, column=column
        )
    if bad_long:
        row = first_source_row(connection, view, long)
        raise DataError("an id is longer than 1,024 bytes", file=name, row=row, column=column)


def first_row(connection: duckdb.DuckDBPyConnection, table: str, condition: str) -> int | None:
    """1-based source row of the first row of a staged table that meets a condition."""
    return _first(connection, f"SELECT rowid FROM {table} WHERE {condition} ORDER BY rowid LIMIT 1")


def first_source_row(connection: duckdb.DuckDBPyConnection, view: str, condition: str) -> int | None:
    """1-based source row of the first row of a view with `__src` that meets a condition."""
    return _first(connection, f"SELECT __src FROM {view} WHERE {condition} ORDER BY __src LIMIT 1")


def _first(connection: duckdb.DuckDBPyConnection, query: str) -> int | None:
    found = connection.execute(query).fetchone()
    return None if found is None else int(found[0]) + 1
