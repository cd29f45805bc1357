"""Events that join a dataset: read as an import would read them, numbered as the dataset numbers.

Reads:  anything that `duality data import` reads (readers.py), by the rules the dataset was imported
        with: its filter, its event column, its seed.
Cost:   memory for the new events, and for the dictionary of ids when many of them are looked up.

Shapes: N new events, K events of the dataset that must be ordered against them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import fingerprint
from duality.data.attributes import stage_side
from duality.data.checks import reading
from duality.data.connection import connect, quoted, read_table
from duality.data.dataset import Dataset
from duality.data.dropping import check_rows, drop_rows
from duality.data.ids import Ids
from duality.data.kinds import column_types
from duality.data.logs import Log, prepare_log
from duality.data.readers import find_source, stage
from duality.data.writing import tie_expression
from duality.errors import DataError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Arrivals:
    """New events in the order in which a user's are to stand.

    Args:
        name: the source, for messages.
        user, item: int64 [N], rows; ids that the dataset lacks have rows after its last.
        time: int64 [N] microseconds; None where the dataset has no times.
        tie: uint64 [N], what orders equal times.
        attributes: table [N], the file's other columns.
        new_users, new_items: ids of the rows that are new, in row order.
        told: side to what was said of users or items, `id` and their attributes.
        dropped: reason to number of rows that the rules of the dataset left out.
        digest: identity of the events, whatever file they came in.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    tie: np.ndarray
    attributes: pa.Table
    new_users: list[str]
    new_items: list[str]
    told: dict[str, pa.Table]
    dropped: dict[str, int]
    digest: str

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: np.ndarray, dataset: Dataset) -> Arrivals:
        """The events that `chosen` (bool [N]) marks; ids that none of them has lose their new row."""
        users, new_users = _renumbered(self.user[chosen], self.new_users, dataset.num_users)
        items, new_items = _renumbered(self.item[chosen], self.new_items, dataset.num_items)
        return replace(
            self,
            user=users,
            item=items,
            time=None if self.time is None else self.time[chosen],
            tie=self.tie[chosen],
            attributes=self.attributes.filter(chosen),
            new_users=new_users,
            new_items=new_items,
        )


@contextmanager
def arrivals(
    source: Any,
    dataset: Dataset,
    folder: Path,
    *,
    sides: dict[str, Any],
    asked: dict[str, str | None],
    where: str | None,
    memory_limit: str,
) -> Iterator[tuple[Arrivals, Ties]]:
    """New events, and what orders old events against them, while the database of the reading is open.

    Args:
        source: a path, frame or table.
        folder: for DuckDB's files.
        sides: `users` and `items`, attribute tables as paths or frames; where None, those beside the log.
        asked: role to column; where None, the column that the dataset was imported by, if the source
            has it, else one with a usual name.
        where: filter; None takes the dataset's own, "" none.

    Raises:
        DataError: the source cannot be read, or has no times and the dataset has; file, row and column.
    """
    found = find_source(source)
    beside = {
        side: getattr(found, side) if given is None else find_source(given) for side, given in sides.items()
    }
    connection = connect(folder, memory_limit)
    try:
        with reading(found.name, None, None):
            stage(connection, found, "log_rows")
            for side, table in beside.items():
                stage_side(connection, table, side)
            connection.execute("SET enable_external_access = false")
            columns = list(column_types(connection, "log_rows"))
            log = prepare_log(
                connection, found, _asked(dataset, asked, columns), times_joined=not dataset.timed
            )
            if dataset.timed and log.mapping.time is None:
                raise DataError(
                    "no time column, and the dataset has times: name one with --time-column", file=found.name
                )
            drop_rows(connection, log, dataset.manifest["where"] if where is None else where or None)
            check_rows(connection, log)
            yield _numbered(connection, log, dataset), Ties(connection, dataset)
    finally:
        connection.close()


class Ties:
    """The hash that orders old events against new ones with equal times, as an import computes it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
        self._connection, self._dataset, self._tables = connection, dataset, 0

    def of(self, events: np.ndarray) -> np.ndarray:
        """uint64 [K] of event numbers int64 [K] of the dataset."""
        import pyarrow as pa

        dataset = self._dataset
        time = None if dataset.event_time is None else np.asarray(dataset.event_time[events])
        rows = {
            "__user": _ids(dataset.user_ids, dataset.event_user[events]),
            "__item": _ids(dataset.item_ids, dataset.event_item[events]),
            "__time": pa.nulls(len(events), pa.int64()) if time is None else pa.array(time),
        }
        self._tables += 1
        name = f"old_{self._tables}"
        # A cursor of its own: the connection may still hold the result of a check that read one row.
        cursor = self._connection.cursor()
        cursor.from_arrow(pa.table(rows)).create(name)
        cursor.close()
        tie = tie_expression(dataset.manifest["seed"], name)
        return _numpy(read_table(self._connection, f"SELECT {tie} AS tie FROM {name} ORDER BY rowid"), "tie")


def _asked(dataset: Dataset, asked: dict[str, str | None], columns: list[str]) -> dict[str, str | None]:
    recorded = dataset.manifest["mapping"]
    usual = {role: name for role, name in recorded.items() if name in columns or role == "event"}
    return {role: asked.get(role) or usual.get(role) for role in recorded}


def _numbered(connection: duckdb.DuckDBPyConnection, log: Log, dataset: Dataset) -> Arrivals:
    """The staged rows, in order, with the rows of their users and items."""
    seed = dataset.manifest["seed"]
    attributes = [quoted(name) for name in log.attributes]
    ordered = log.mapping.order or log.mapping.time
    order = ["__order", "__time", "__tie", *(f"{name} NULLS LAST" for name in attributes), "__src"]
    columns = ["__user", "__item", "__time", f"{tie_expression(seed, 'log')} AS __tie", *attributes]
    by = ", ".join(order) if ordered else "__src"
    table = read_table(connection, f"SELECT {', '.join(columns)} FROM log ORDER BY {by}")
    user, new_users = _rows(dataset.user_ids, table.column("__user"))
    item, new_items = _rows(dataset.item_ids, table.column("__item"))
    return Arrivals(
        name=log.source.name,
        user=user,
        item=item,
        time=_numpy(table, "__time") if dataset.timed else None,
        tie=_numpy(table, "__tie"),
        attributes=table.drop_columns(["__user", "__item", "__time", "__tie"]),
        new_users=new_users,
        new_items=new_items,
        told={
            side: read_table(connection, f"SELECT * FROM {side}_attributes") for side in ("users", "items")
        },
        dropped=log.dropped,
        # The ties are hashes of user, item and time, one per row: together they are the log.
        digest=fingerprint(_numpy(table, "__tie").tobytes()),
    )


def _rows(ids: Ids, column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Rows int64 [N] of a column of ids, and the ids that are new, which follow in the order of their bytes."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    rows = ids.find(names)
    missing = np.flatnonzero(rows < 0)
    new = sorted((names[place] for place in missing), key=str.encode)
    order = {name: len(ids) + number for number, name in enumerate(new)}
    rows[missing] = [order[names[place]] for place in missing]
    return rows[encoded.indices.to_numpy(zero_copy_only=False)], new


def _renumbered(rows: np.ndarray, new: list[str], first: int) -> tuple[np.ndarray, list[str]]:
    """Rows without gaps from `first` on, and the ids among `new` that still have one."""
    left = np.unique(rows[rows >= first])
    renamed = np.where(rows >= first, first + np.searchsorted(left, rows), rows)
    return renamed, [new[row - first] for row in left]


def _ids(ids: Ids, rows: np.ndarray) -> pa.Array:
    import pyarrow as pa

    different, place = np.unique(rows, return_inverse=True)
    return pa.array(ids.ids(different), pa.string()).take(pa.array(place))


def _numpy(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).combine_chunks().to_numpy(zero_copy_only=False)
