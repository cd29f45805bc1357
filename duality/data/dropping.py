"""Rows that do not stay: filtered, not events, repeats, rare users and items; and rows that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duality.data.checks import check_ids, first_source_row
from duality.data.connection import quoted
from duality.data.kinds import predicate_kind
from duality.data.logs import Log
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb


def drop_rows(connection: duckdb.DuckDBPyConnection, log: Log, where: str | None) -> None:
    if where is not None:
        from duality.predicates import parse, to_sql

        kinds = {name: kind for name, t in log.types.items() if (kind := predicate_kind(t)) is not None}
        condition, parameters = to_sql(parse(where), kinds, dialect="duckdb")
        log.dropped["where"] = _delete(
            connection, f"SELECT __src FROM log WHERE ({condition}) IS NOT TRUE", parameters
        )
    if log.mapping.event:
        log.dropped["event"] = _delete(
            connection, f"SELECT __src FROM log WHERE ({_happened(log)}) IS NOT TRUE"
        )
    refuse_nothing(connection, log)


def _happened(log: Log) -> str:
    name = str(log.mapping.event)
    kind = predicate_kind(log.types[name])
    if kind == "boolean":
        return quoted(name)
    if kind == "number":
        return f"{quoted(name)} > 0"
    what = "an event column holds true/false or a number; for text use --where \"column = 'value'\""
    raise DataError(what, file=log.source.name, column=name)


def check_rows(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Refuse missing ids and unreadable times in the rows that are left."""
    for internal, column in (("__user", log.mapping.user), ("__item", log.mapping.item)):
        check_ids(connection, "log", internal, log.source.name, column, text=log.source.text)
    if log.mapping.time:
        row = first_source_row(connection, "log", "__time IS NULL")
        if row is not None:
            raw = quoted(log.mapping.time)
            value = connection.execute(
                f"SELECT {raw}::VARCHAR FROM log_rows WHERE rowid = ?", [row - 1]
            ).fetchone()
            shown = "nothing" if value is None or value[0] is None else f"'{value[0][:60]}'"
            what = f"no time in {shown}: numbers, ISO 8601 text, dates and timestamps are read"
            raise DataError(what, file=log.source.name, row=row, column=log.mapping.time)


def drop_repeats(connection: duckdb.DuckDBPyConnection, log: Log, repeats: str, seed: int) -> None:
    if repeats == "keep":
        return
    direction = "ASC" if repeats == "first" else "DESC"
    keys = ["__order", "__time", *(quoted(name) for name in log.attributes)]
    order = ", ".join(f"{key} {direction} NULLS LAST" for key in keys)
    log.dropped["repeats"] = _delete(
        connection,
        "SELECT __src FROM (SELECT __src, row_number() OVER (PARTITION BY __user, __item "
        f"ORDER BY {order}) AS place FROM log) WHERE place > 1",
    )


def drop_rare(connection: duckdb.DuckDBPyConnection, log: Log, min_user: int, min_item: int) -> None:
    """Drop rare users and items in turn until every one left has enough events."""
    limits = [(side, limit) for side, limit in (("user", min_user), ("item", min_item)) if limit > 1]
    while limits:
        dropped = 0
        for side, limit in limits:
            rare = f"SELECT __{side} FROM log GROUP BY __{side} HAVING count(*) < {int(limit)}"
            count = _delete(connection, f"SELECT __src FROM log WHERE __{side} IN ({rare})")
            reason = f"min_{side}_events"
            log.dropped[reason] = log.dropped.get(reason, 0) + count
            dropped += count
        if dropped == 0 or len(limits) == 1:
            return


def _delete(connection: duckdb.DuckDBPyConnection, rows: str, parameters: list[Any] | None = None) -> int:
    found = connection.execute(f"DELETE FROM log_rows WHERE rowid IN ({rows})", parameters or []).fetchone()
    return int(found[0]) if found else 0


def refuse_nothing(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    if connection.execute("SELECT 1 FROM log_rows LIMIT 1").fetchone() is None:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in log.dropped.items() if count)
        raise DataError(f"no rows are left: all dropped by {reasons}", file=log.source.name)
