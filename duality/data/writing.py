"""The files of a dataset from a staged and checked log: numbers, arrays, attributes, manifest.

Reads:  the DuckDB view `log` (logs.py).
Writes: the files that dataset.py lists, batch by batch.
Cost:   two external sorts; memory is DuckDB's limit plus a few batches and the ids.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import checksum, fingerprint, write_json
from duality.data.arrays import ArrayWriter
from duality.data.attributes import write_side
from duality.data.connection import one_row, quoted, stream
from duality.data.dataset import FORMAT, MANIFEST
from duality.data.ids import write_ids

if TYPE_CHECKING:
    import duckdb

    from duality.data.logs import Log


def write_dataset(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    log: Log,
    *,
    seed: int,
    where: str | None,
    repeats: str,
    advance: Callable[..., None],
) -> dict[str, Any]:
    """Write every file of the dataset; returns the manifest without checksums."""
    for side in ("users", "items"):
        _number(connection, side)
    timed = log.time_unit is not None
    _sort_events(connection, log, seed)
    advance(note="writing users and items")
    sides = {side: write_side(connection, folder, side) for side in ("users", "items")}
    for side, (identifiers, _) in sides.items():
        write_ids(folder, side, identifiers)
    num_users, num_items = len(sides["users"][0]), len(sides["items"][0])
    advance(note="writing user histories")
    facts = _write_events(connection, folder, num_users, num_items, timed=timed)
    advance(note="writing item histories")
    _write_item_events(connection, folder, facts["events"], timed=timed)
    if log.attributes:
        _write_attributes(connection, folder, log.attributes)
    checksums = {path.name: checksum(path) for path in sorted(folder.iterdir()) if path.is_file()}
    mapping = log.mapping
    document = {
        "users": num_users,
        "items": num_items,
        **facts,
        "timed": timed,
        "dropped": log.dropped,
        "users_without_events": sides["users"][1],
        "items_without_events": sides["items"][1],
        "mapping": {
            "user": mapping.user,
            "item": mapping.item,
            "time": mapping.time,
            "order": mapping.order,
            "event": mapping.event,
        },
        "time_unit": log.time_unit,
        "time_from": log.time_from,
        "source": log.source.describe(),
        "repeats": repeats,
        "seed": seed,
        "where": where,
        "fingerprint": fingerprint(*(f"{name} {digest}" for name, digest in checksums.items())),
    }
    write_json(folder / MANIFEST, {"format": FORMAT, **document, "checksums": checksums})
    return document


def _number(connection: duckdb.DuckDBPyConnection, side: str) -> None:
    """Rows by the order of the ids' bytes: the same whatever the order of the source."""
    role = f"__{side[:-1]}"
    connection.execute(
        f"CREATE TABLE {side}_numbers AS SELECT (row_number() OVER (ORDER BY id) - 1)::INTEGER AS row, id "
        f"FROM (SELECT DISTINCT {role} AS id FROM log)"
    )


def tie_expression(seed: int, table: str) -> str:
    """SQL for the hash, UBIGINT, that orders events with equal times; `table` has __user, __item, __time."""
    cells = f"{table}.__user, {table}.__item, {table}.__time::VARCHAR"
    return f"md5_number_upper(concat_ws(chr(31), '{int(seed)}', {cells}))"


def _sort_events(connection: duckdb.DuckDBPyConnection, log: Log, seed: int) -> None:
    """Make the table `events`, whose rowid is the event's number."""
    tie = tie_expression(seed, "l")
    order = ["__user_row"]
    order += ["l.__order"] if log.mapping.order else []
    order += ["l.__time"] if log.time_unit else []
    # Rows alike in user, item and time differ at most in attributes: those decide last, never the file.
    order += ["__tie", *(f"l.{quoted(name)} NULLS LAST" for name in log.attributes)]
    attributes = "".join(f", l.{quoted(name)}" for name in log.attributes)
    connection.execute(
        f"CREATE TABLE events AS SELECT u.row AS __user_row, i.row AS __item_row, l.__time, "
        f"{tie} AS __tie{attributes} "
        f"FROM log l JOIN users_numbers u ON u.id = l.__user JOIN items_numbers i ON i.id = l.__item "
        f"ORDER BY {', '.join(order)}"
    )
    for view in ("log", "staged"):
        connection.execute(f"DROP VIEW {view}")
    connection.execute("DROP TABLE log_rows")


def _write_events(
    connection: duckdb.DuckDBPyConnection, folder: Path, num_users: int, num_items: int, *, timed: bool
) -> dict[str, Any]:
    """Write user histories; returns counts, first and last event, and order conflicts."""
    events = int(one_row(connection, "SELECT count(*) FROM events")[0])
    counts = {"user": np.zeros(num_users, np.int64), "item": np.zeros(num_items, np.int64)}
    with ExitStack() as files:
        for role in counts:
            writer = files.enter_context(ArrayWriter(folder / f"event_{role}.npy", np.int32, events))
            for batch in stream(connection, f"SELECT __{role}_row FROM events"):
                rows = batch.column(0).to_numpy()
                writer.append(rows)
                counts[role] += np.bincount(rows, minlength=len(counts[role]))
        if timed:
            writer = files.enter_context(ArrayWriter(folder / "event_time.npy", np.int64, events))
            for batch in stream(connection, "SELECT __time FROM events"):
                writer.append(batch.column(0).to_numpy())
    for role, count in counts.items():
        np.save(folder / f"{role}_indptr.npy", np.concatenate([[0], np.cumsum(count)]).astype(np.int64))
    facts: dict[str, Any] = {"events": events, "first_event": None, "last_event": None}
    return facts | (_time_facts(connection) if timed else {})


def _time_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    first, last = one_row(connection, "SELECT min(__time), max(__time) FROM events")
    earlier = one_row(
        connection,
        "SELECT count(*) FROM (SELECT __time < lag(__time) OVER () AND __user_row = lag(__user_row) OVER () "
        "AS earlier FROM events) WHERE earlier",
    )
    return {"first_event": iso(first), "last_event": iso(last), "order_disagrees_with_time": int(earlier[0])}


def _write_item_events(
    connection: duckdb.DuckDBPyConnection, folder: Path, events: int, *, timed: bool
) -> None:
    order = "__item_row, __time, __tie, rowid" if timed else "__item_row, __tie, rowid"
    with ArrayWriter(folder / "item_event.npy", np.int64, events) as writer:
        for batch in stream(connection, f"SELECT rowid FROM events ORDER BY {order}"):
            writer.append(batch.column(0).to_numpy())


def _write_attributes(connection: duckdb.DuckDBPyConnection, folder: Path, names: list[str]) -> None:
    import pyarrow.parquet as pq

    selected = ", ".join(quoted(name) for name in names)
    writer = None
    try:
        for batch in stream(connection, f"SELECT {selected} FROM events"):
            writer = writer or pq.ParquetWriter(
                folder / "event_attributes.parquet", batch.schema, compression="zstd"
            )
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


def iso(microseconds: int) -> str:
    """A time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat().replace("+00:00", "Z")
