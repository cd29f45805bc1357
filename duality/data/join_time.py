"""Times of one log for the events of another, joined by (user, item) pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from duality.data.checks import first_source_row
from duality.data.columns import map_columns
from duality.data.connection import one_row
from duality.data.files import Source
from duality.data.kinds import column_types, id_expression, time_expression
from duality.data.logs import Log
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class JoinTime:
    """Times from another log, joined by (user, item) pair.

    Args:
        source: the other log, anything `import_events` reads.
        user_column: attribute column of the users table that holds the other log's user ids;
            None when both logs share ids.
        item_column: the same for items.
    """

    source: Any
    user_column: str | None = None
    item_column: str | None = None


def join_times(connection: duckdb.DuckDBPyConnection, log: Log, join: JoinTime, other: Source) -> None:
    """Replace the view `log` by one whose times come from the staged table `other_rows`."""
    raw = column_types(connection, "other_rows")
    none: dict[str, str | None] = dict.fromkeys(("user", "item", "time", "order", "event"))
    mapping = map_columns(list(raw), none, file=other.name, times_joined=False)
    if mapping.time is None:
        raise DataError("has no time to join", file=other.name)
    stamp, log.time_unit = time_expression(
        connection, "other_rows", mapping.time, raw[mapping.time], file=other.name
    )
    log.time_from = other.describe()
    user, item = (id_expression(name, raw[name], file=other.name) for name in (mapping.user, mapping.item))
    connection.execute(
        f"CREATE TABLE pair_times AS SELECT {user} AS u, {item} AS i, min({stamp}) AS t, "
        f"count(DISTINCT {stamp}) AS n FROM other_rows GROUP BY ALL"
    )
    left = "FROM log l"
    keys = ["l.__user", "l.__item"]
    for place, (side, column) in enumerate((("users", join.user_column), ("items", join.item_column))):
        if column is not None:
            keys[place] = _map_ids(connection, side, column)
            left += f" LEFT JOIN {side}_other ON {side}_other.id = l.__{side[:-1]}"
    connection.execute(
        f"CREATE TABLE joined AS SELECT l.__src, p.t AS __time, p.n {left} "
        f"LEFT JOIN pair_times p ON p.u = {keys[0]} AND p.i = {keys[1]}"
    )
    missing, many = one_row(
        connection, "SELECT count(*) FILTER (__time IS NULL), count(*) FILTER (n > 1) FROM joined"
    )
    if missing or many:
        condition = "__time IS NULL" if missing else "n > 1"
        what = f"{missing:,} events have no time in" if missing else f"{many:,} events have several times in"
        row = first_source_row(connection, "joined", condition)
        raise DataError(
            f"{what} {other.name}: see --time-user-map, --time-item-map", file=log.source.name, row=row
        )
    connection.execute(
        "CREATE OR REPLACE VIEW log AS SELECT s.* REPLACE (j.__time AS __time) "
        "FROM staged s JOIN joined j ON j.__src = s.__src"
    )


def _map_ids(connection: duckdb.DuckDBPyConnection, side: str, column: str) -> str:
    kinds = column_types(connection, f"{side}_attributes")
    if column not in kinds:
        raise DataError(f"no such column in the {side} table: see --time-{side[:-1]}-map", column=column)
    expression = id_expression(column, kinds[column], file=side)
    connection.execute(
        f"CREATE TABLE {side}_other AS SELECT id, {expression} AS other FROM {side}_attributes"
    )
    return f"{side}_other.other"
