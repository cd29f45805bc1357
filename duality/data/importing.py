"""An interaction log into a dataset folder.

Reads:  one log, and the users and items beside it (readers.py).
Writes: a dataset folder (dataset.py) in one piece: the old one stays until the new one is whole.
Steps:  stage the source as it is, type and check its columns, drop rows, number users, items and
        events, sort twice, write (writing.py).
Cost:   DuckDB sorts within `memory_limit` and spills to the temporary folder; one thread or two.

Equal times (or orders) of one user are put in an order drawn from a hash of seed, user, item and
time: the order of a file or of item ids says something about the future, a hash does not.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from duality.artifacts import atomic_folder
from duality.data.attributes import stage_side
from duality.data.checks import reading
from duality.data.connection import connect
from duality.data.dataset import MANIFEST
from duality.data.dropping import check_rows, drop_rare, drop_repeats, drop_rows, refuse_nothing
from duality.data.join_time import JoinTime, join_times
from duality.data.logs import prepare_log
from duality.data.readers import find_source, stage
from duality.data.writing import write_dataset
from duality.errors import InputError
from duality.runtime import progress

REPEATS = ("keep", "first", "last")


def import_events(
    source: Any,
    out: Path | str,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    order_column: str | None = None,
    event_column: str | None = None,
    min_user_events: int = 1,
    min_item_events: int = 1,
    where: str | None = None,
    repeats: str = "keep",
    users: Any = None,
    items: Any = None,
    seed: int = 0,
    memory_limit: str = "1GB",
    join_time: JoinTime | None = None,
) -> dict[str, Any]:
    """Import an interaction log.

    Args:
        source: a path (Parquet, CSV/TSV, JSON lines, RecBole `.inter`, MovieLens folder, folder with
            interactions.parquet), a pandas or Polars frame, or an Arrow table.
        out: the dataset folder to create or replace.
        user_column, item_column, time_column, order_column: columns, by default those with a usual name.
        event_column: keep only rows where this column is true or positive.
        min_user_events, min_item_events: drop users and items with fewer events, until none is left.
        where: keep only rows that meet this filter expression.
        repeats: "keep", or of several events of one user with one item the "first" or "last".
        users, items: attribute tables, a path or frame each; by default those beside the log.
        seed: of the hash that orders ties.
        memory_limit: of DuckDB; larger logs spill to disk.
        join_time: take times from another log.

    Returns:
        The document of `duality data import`: users, items, events, dropped {reason: n}, first_event,
        last_event, mapping, timed, fingerprint, seconds and more.

    Raises:
        DataError: the source cannot be imported; names file, row and column. Nothing has changed.
        FilterError: `where` does not fit the log.
        InputError: an option is out of range, or `out` holds something else.
    """
    started = time.monotonic()
    if repeats not in REPEATS:
        raise InputError(f"repeats '{repeats}': choose keep, first or last")
    if min_user_events < 1 or min_item_events < 1:
        raise InputError("the least number of events per user and item is 1")
    found = find_source(source)
    sides = {
        "users": find_source(users) if users is not None else found.users,
        "items": find_source(items) if items is not None else found.items,
    }
    other = find_source(join_time.source) if join_time else None
    asked = {
        "user": user_column,
        "item": item_column,
        "time": time_column,
        "order": order_column,
        "event": event_column,
    }
    with atomic_folder(Path(out), marker=MANIFEST) as folder, progress(6, "importing", unit="steps") as bar:
        connection = connect(folder, memory_limit)
        try:
            with reading(found.name, None, None):
                stage(connection, found, "log_rows")
                for side, table in sides.items():
                    stage_side(connection, table, side)
                if other:
                    stage(connection, other, "other_rows")
                connection.execute("SET enable_external_access = false")
                bar.advance(note="checking columns")
                log = prepare_log(connection, found, asked, times_joined=join_time is not None)
                bar.advance(note="dropping rows")
                drop_rows(connection, log, where)
                check_rows(connection, log)
                if join_time and other:
                    join_times(connection, log, join_time, other)
                drop_repeats(connection, log, repeats, seed)
                drop_rare(connection, log, min_user_events, min_item_events)
                refuse_nothing(connection, log)
                bar.advance(note="sorting")
                document = write_dataset(
                    connection, folder, log, seed=seed, where=where, repeats=repeats, advance=bar.advance
                )
        finally:
            connection.close()
            _clear(folder)
    return {"dataset": str(out), **document, "seconds": round(time.monotonic() - started, 3)}


def _clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / "work", ignore_errors=True)
