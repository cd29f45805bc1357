"""The users and items tables beside a log: read, checked, joined to the rows of the dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from duality.data.checks import check_cells, check_ids, first_source_row
from duality.data.columns import id_column
from duality.data.connection import one_row, quoted, read_table
from duality.data.files import Source
from duality.data.kinds import column_types, id_expression, typed_columns
from duality.data.readers import stage
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb


def stage_side(connection: duckdb.DuckDBPyConnection, source: Source | None, side: str) -> None:
    """Make the table `<side>_attributes`: `id` as text, then the attributes; empty without a source.

    Raises:
        DataError: no id column, a missing id, or one id twice.
    """
    if source is None:
        connection.execute(f"CREATE TABLE {side}_attributes (id VARCHAR)")
        return
    stage(connection, source, f"{side}_rows")
    raw = column_types(connection, f"{side}_rows")
    check_cells(connection, f"{side}_rows", raw, source.name)
    name = id_column(side, list(raw), file=source.name)
    columns = typed_columns(connection, f"{side}_rows", source, as_text=[name])
    identifier = id_expression(name, raw[name], file=source.name)
    selected = "".join(
        f", {expression} AS {quoted('original_id' if column.lower() == 'id' else column)}"
        for column, (expression, _) in columns.items()
        if column != name
    )
    connection.execute(
        f"CREATE TABLE {side}_attributes AS "
        f"SELECT rowid AS __src, {identifier} AS id{selected} FROM {side}_rows"
    )
    check_ids(connection, f"{side}_attributes", "id", source.name, name, text=source.text)
    twice = f"id IN (SELECT id FROM {side}_attributes GROUP BY id HAVING count(*) > 1)"
    row = first_source_row(connection, f"{side}_attributes", twice)
    if row is not None:
        raise DataError("this id stands in more than one row", file=source.name, row=row, column=name)
    connection.execute(f"ALTER TABLE {side}_attributes DROP COLUMN __src")
    connection.execute(f"DROP TABLE {side}_rows")


def write_side(connection: duckdb.DuckDBPyConnection, folder: Path, side: str) -> tuple[list[str], int]:
    """Write `<side>.parquet` in row order.

    Returns:
        Ids in row order, and how many rows of the attribute table belong to nobody in the log.
    """
    import pyarrow.parquet as pq

    others = [quoted(name) for name in column_types(connection, f"{side}_attributes") if name != "id"]
    selected = ", ".join(["n.id", *(f"a.{name}" for name in others)])
    query = (
        f"SELECT {selected} FROM {side}_numbers n LEFT JOIN {side}_attributes a ON a.id = n.id ORDER BY n.row"
    )
    table = read_table(connection, query)
    pq.write_table(table, folder / f"{side}.parquet", compression="zstd")
    query = f"SELECT count(*) FROM {side}_attributes WHERE id NOT IN (SELECT id FROM {side}_numbers)"
    return table.column("id").to_pylist(), int(one_row(connection, query)[0])
