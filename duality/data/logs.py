"""A staged log with its columns understood: a DuckDB view over the table of its rows.

`log_rows` is the source as it is; the view `log` has its columns with types, and beside them our
roles: __src (0-based source row), __user and __item (ids as text), __time (microseconds), __order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from duality.data.checks import check_cells
from duality.data.columns import Mapping, map_columns
from duality.data.connection import quoted
from duality.data.files import Source
from duality.data.kinds import column_types, id_expression, order_expression, time_expression, typed_columns
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb


@dataclass
class Log:
    """A staged log: where it came from, what its columns mean, what was dropped from it."""

    source: Source
    mapping: Mapping
    types: dict[str, str]
    time_unit: str | None = None
    time_from: dict[str, Any] | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def attributes(self) -> list[str]:
        """Columns that are stored beside each event."""
        return [name for name in self.types if name not in self.mapping.used]


def prepare_log(
    connection: duckdb.DuckDBPyConnection, source: Source, asked: dict[str, str | None], *, times_joined: bool
) -> Log:
    """Make the view `log`.

    Raises:
        DataError: a column is missing or cannot play its role, there are no rows, or a cell is too long.
    """
    raw = column_types(connection, "log_rows")
    mapping = map_columns(list(raw), asked, file=source.name, times_joined=times_joined)
    if connection.execute("SELECT 1 FROM log_rows LIMIT 1").fetchone() is None:
        raise DataError("it has a header but no rows" if source.text else "it has no rows", file=source.name)
    check_cells(connection, "log_rows", raw, source.name)
    columns = typed_columns(connection, "log_rows", source, as_text=[mapping.user, mapping.item])
    for name in (mapping.user, mapping.item):
        columns[name] = (id_expression(name, raw[name], file=source.name), "VARCHAR")
    log = Log(source, mapping, {name: kind for name, (_, kind) in columns.items()})
    stamp, place = "NULL::BIGINT", "NULL::BIGINT"
    if mapping.time:
        stamp, log.time_unit = time_expression(
            connection, "log_rows", mapping.time, raw[mapping.time], file=source.name
        )
    if mapping.order:
        place = order_expression(connection, "log_rows", mapping.order, raw[mapping.order], file=source.name)
    roles_sql = {
        "__src": "rowid",
        "__user": columns[mapping.user][0],
        "__item": columns[mapping.item][0],
        "__time": stamp,
        "__order": place,
    }
    selected = [f"{expression} AS {name}" for name, expression in roles_sql.items()]
    selected += [f"{expression} AS {quoted(name)}" for name, (expression, _) in columns.items()]
    taken = next((name for name in raw if name.lower() in roles_sql), None)
    if taken:
        raise DataError("this name is reserved: rename the column", file=source.name, column=taken)
    connection.execute(f"CREATE VIEW staged AS SELECT {', '.join(selected)} FROM log_rows")
    connection.execute("CREATE VIEW log AS SELECT * FROM staged")
    return log
