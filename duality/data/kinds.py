"""SQL expressions that give a staged column its type: attributes, ids as text, times in microseconds."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from duality.data.checks import first_row
from duality.data.connection import one_row, quoted
from duality.data.files import Source
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb

_INTEGERS = {
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
}
_FLOATS = {"FLOAT", "DOUBLE"}
# Type of a text column: the first whose test every cell passes. Numbers with leading zeros are
# codes (04109 is a zip), and stay text.
_TEXT_TYPES = (
    ("BIGINT", "regexp_full_match({c}, '-?(0|[1-9][0-9]{{0,17}})')", "CAST({c} AS BIGINT)"),
    (
        "DOUBLE",
        "try_cast({c} AS DOUBLE) IS NOT NULL AND NOT regexp_matches({c}, '^-?0[0-9]')",
        "CAST({c} AS DOUBLE)",
    ),
    ("BOOLEAN", "lower({c}) IN ('true', 'false')", "CAST({c} AS BOOLEAN)"),
    (
        "DATE",
        "regexp_full_match({c}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}') AND try_cast({c} AS DATE) IS NOT NULL",
        "CAST({c} AS DATE)",
    ),
)
# Largest plausible absolute value of each unit: 1e11 seconds is the year 5138, 1e11 ms is 1973.
_UNITS = ((1e11, "seconds"), (1e14, "milliseconds"), (1e17, "microseconds"), (float("inf"), "nanoseconds"))
_LAST_MICROSECOND = 253_402_300_800_000_000  # the end of the year 9999


def typed_columns(
    connection: duckdb.DuckDBPyConnection, table: str, source: Source, *, as_text: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Name to (SQL expression, DuckDB type) for every column of a staged table.

    Args:
        as_text: columns that stay as they are (ids, times).
    """
    columns = {}
    for name, kind in column_types(connection, table).items():
        column = quoted(name)
        if source.text and name not in as_text:
            list_type = source.lists.get(name)
            if list_type:
                columns[name] = (f"CAST(string_split({column}, ' ') AS {list_type})", list_type)
            else:
                columns[name] = _text_type(connection, table, column)
        else:
            columns[name] = (column, kind)
    return columns


def column_types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Name to DuckDB type of a table's columns, in order."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE {table}").fetchall()}


def predicate_kind(kind: str) -> str | None:
    """The kind of a DuckDB type in filter expressions, or None where filters cannot use it."""
    if kind.endswith("]"):
        return "list"
    if kind in _INTEGERS or kind in _FLOATS or kind.startswith("DECIMAL"):
        return "number"
    if kind.startswith(("DATE", "TIMESTAMP")):
        return "date"
    return {"BOOLEAN": "boolean", "VARCHAR": "string", "UUID": "string"}.get(kind)


def id_expression(name: str, kind: str, *, file: str) -> str:
    """SQL for a column's ids as text: 12 and 12.0 are both '12', NaN is null.

    Raises:
        DataError: lists and structures are no ids.
    """
    column = quoted(name)
    if kind in _FLOATS:
        whole = f"isfinite({column}) AND {column} = trunc({column}) AND abs({column}) < 9007199254740992"
        return (
            f"CASE WHEN isnan({column}) THEN NULL "
            f"WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE CAST({column} AS VARCHAR) END"
        )
    if kind.startswith("DECIMAL"):
        return f"regexp_replace(CAST({column} AS VARCHAR), '\\.0+$', '')"
    if kind.endswith(("]", ")")) and not kind.startswith("ENUM"):
        raise DataError(f"ids must be text or numbers, this is {kind}", file=file, column=name)
    return column if kind == "VARCHAR" else f"CAST({column} AS VARCHAR)"


def time_expression(
    connection: duckdb.DuckDBPyConnection, table: str, name: str, kind: str, *, file: str
) -> tuple[str, str]:
    """SQL for a column's time as BIGINT microseconds since 1970 UTC, and its unit.

    Where a cell cannot be read the SQL gives null. Numbers are seconds, milliseconds, microseconds
    or nanoseconds by the largest of them; text without a zone is UTC.

    Raises:
        DataError: the column's type is no time.
    """
    column = quoted(name)
    if kind.startswith(("TIMESTAMP", "DATE")):
        instant = column if kind in ("TIMESTAMP WITH TIME ZONE", "DATE") else f"CAST({column} AS TIMESTAMP)"
        expression, unit = f"CASE WHEN isfinite({instant}) THEN epoch_us({instant}) END", kind.lower()
    elif kind == "VARCHAR" and not _mostly_numbers(connection, table, column):
        expression, unit = f"epoch_us(try_cast({column} AS TIMESTAMPTZ))", "ISO 8601 text"
    elif kind in _INTEGERS:
        unit = _unit(connection, table, f"CAST({column} AS DOUBLE)")
        whole = f"CAST({column} AS HUGEINT)"
        scaled = {"seconds": f"{whole} * 1000000", "milliseconds": f"{whole} * 1000", "microseconds": whole}
        expression = f"try_cast({scaled.get(unit, whole + ' // 1000')} AS BIGINT)"
    elif kind in _FLOATS or kind == "VARCHAR" or kind.startswith("DECIMAL"):
        number = f"try_cast({column} AS DOUBLE)"
        unit = _unit(connection, table, number)
        factor = {"seconds": "1e6", "milliseconds": "1e3", "microseconds": "1.0"}.get(unit, "1e-3")
        expression = f"try_cast(round({number} * {factor}) AS BIGINT)"
    else:
        raise DataError(
            f"{kind} is no time: numbers, ISO 8601 text, dates and timestamps are", file=file, column=name
        )
    return f"CASE WHEN abs({expression}) < {_LAST_MICROSECOND} THEN {expression} END", unit


def order_expression(
    connection: duckdb.DuckDBPyConnection, table: str, name: str, kind: str, *, file: str
) -> str:
    """SQL for a column that orders each user's events.

    Raises:
        DataError: text that is not a number, or a missing value.
    """
    column = quoted(name)
    if kind == "VARCHAR":
        column = f"coalesce(try_cast({column} AS BIGINT), try_cast({column} AS DOUBLE))"
    row = first_row(connection, table, f"{column} IS NULL")
    if row is not None:
        raise DataError("an order must be a number in every row", file=file, row=row, column=name)
    return column


def _text_type(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> tuple[str, str]:
    if first_row(connection, table, f"{column} IS NOT NULL") is None:
        return column, "VARCHAR"
    for kind, test, expression in _TEXT_TYPES:
        failed = connection.execute(
            f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL AND NOT ({test.format(c=column)}) LIMIT 1"
        ).fetchone()
        if failed is None:
            return expression.format(c=column), kind
    return column, "VARCHAR"


def _mostly_numbers(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    sample = f"SELECT {column} FROM {table} LIMIT 1000"
    query = f"SELECT 2 * count(try_cast({column} AS DOUBLE)) >= count({column}) FROM ({sample})"
    return bool(one_row(connection, query)[0])


def _unit(connection: duckdb.DuckDBPyConnection, table: str, number: str) -> str:
    query = f"SELECT max(abs({number})) FROM {table} WHERE isfinite({number})"
    largest = one_row(connection, query)[0] or 0.0
    return next(unit for limit, unit in _UNITS if largest < limit)
