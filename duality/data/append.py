"""`duality index update`, first half: events into a new version of a dataset.

Reads:  a source as an import does (arrivals.py), and the current version.
Writes: one version folder (versions.py); until its last step the dataset is what it was.
Cost:   reads and writes the whole dataset once, some 32 bytes per event and side; sorts only the
        histories that get an event.

Events that the dataset holds already (same user, item and time) are left out, so that a file can be
given again after an interruption, or overlap the one before. Without times that cannot be told; there a
whole file that was appended before is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.arrivals import Arrivals, arrivals
from duality.data.dataset import Dataset
from duality.data.forgetting import is_forgotten
from duality.data.ids import write_ids
from duality.data.merging import Merged, already_there, merge, without_repeats
from duality.data.version_files import EVENT_ATTRIBUTES, link_side, write_arrays, write_manifest, write_table
from duality.data.versions import Home
from duality.errors import DataError

ROLES = ("user", "item", "time", "order", "event")


@dataclass(frozen=True)
class Appended:
    """What became of the events of a source.

    Args:
        home: the dataset, at its current version.
        events: how many were added.
        dropped: reason to number; `already_there` are those that the dataset held, `forgotten` those of users
            who were taken out of it.
        new_users, new_items: ids that it had not.
    """

    home: Home
    events: int
    dropped: dict[str, int]
    new_users: int = 0
    new_items: int = 0


def append_events(
    source: Any,
    home: Home,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    order_column: str | None = None,
    event_column: str | None = None,
    users: Any = None,
    items: Any = None,
    where: str | None = None,
    memory_limit: str = "1GB",
) -> Appended:
    """Add events to a dataset; durable on return. One process at a time: the caller holds its lock.

    Args:
        source: anything that `import_events` takes.
        home: the dataset.
        user_column, item_column, time_column, order_column, event_column: columns; by default those
            that the dataset was imported by, or those with a usual name.
        users, items: attributes of those who are new, by default the tables beside the events; those the
            dataset knows keep theirs.
        where: keep only rows that meet this filter; by default the one of the import; "" keeps all.
        memory_limit: of DuckDB.

    Raises:
        DataError: the source cannot be read; names file, row and column. Nothing has changed.
        FilterError: the filter does not fit the source.
    """
    dataset = Dataset.open(home.path)
    columns = (user_column, item_column, time_column, order_column, event_column)
    folder = home.place()
    try:
        with arrivals(
            source,
            dataset,
            folder,
            sides={"users": users, "items": items},
            asked=dict(zip(ROLES, columns)),
            where=where,
            memory_limit=memory_limit,
        ) as (new, ties):
            left = _without_forgotten(home, dataset, new)
            fresh = _fresh(home, dataset, left)
            dropped = {**new.dropped, "already_there": len(left) - len(fresh)}
            if len(left) < len(new):
                dropped["forgotten"] = len(new) - len(left)
            if not len(fresh):
                return Appended(home, 0, dropped)
            merged = merge(dataset, fresh, ties)
        _clear(folder / "work")
        if (repeats := dataset.manifest["repeats"]) != "keep":
            merged = without_repeats(merged, np.unique(fresh.user), repeats)
        added = merged.source[merged.source >= dataset.num_events] - dataset.num_events
        dropped["repeats"] = len(fresh) - len(added)
        if not len(added):
            return Appended(home, 0, dropped)
        found = _write(folder, dataset, fresh, merged)
        changed = {"users": np.unique(fresh.user[added]), "items": np.unique(fresh.item[added])}
        facts = {"events": len(added), "digest": new.digest}
        home = home.add(folder, found, changed, facts)
        return Appended(home, len(added), dropped, len(fresh.new_users), len(fresh.new_items))
    finally:
        _clear(folder)


def _without_forgotten(home: Home, dataset: Dataset, new: Arrivals) -> Arrivals:
    """Without the events of users who were taken out of the dataset."""
    gone = np.concatenate([np.zeros(dataset.num_users, bool), is_forgotten(home, new.new_users)])
    return new.take(~gone[new.user], dataset) if gone.any() else new


def _fresh(home: Home, dataset: Dataset, new: Arrivals) -> Arrivals:
    """The events that the dataset does not hold yet."""
    if dataset.timed:
        return new.take(~already_there(dataset, new), dataset)
    known = any(update["digest"] == new.digest for update in home.updates)
    return new.take(np.full(len(new), not known), dataset)


def _write(folder: Path, dataset: Dataset, new: Arrivals, merged: Merged) -> str:
    """Every file of the new version; its fingerprint."""
    for side, ids, table, more in (
        ("users", dataset.user_ids, dataset.users, new.new_users),
        ("items", dataset.item_ids, dataset.items, new.new_items),
    ):
        if more:
            write_ids(folder, side, [*ids.ids(np.arange(len(ids))), *more])
            write_table(folder / f"{side}.parquet", _with_ids(table(), more, new.told[side], side))
        else:
            link_side(dataset, folder, side)
    users = dataset.num_users + len(new.new_users)
    items = dataset.num_items + len(new.new_items)
    write_arrays(folder, merged, users, items)
    attributes = dataset.event_attributes()
    if attributes is not None:
        write_table(folder / EVENT_ATTRIBUTES, _with_rows(attributes, new, merged.source))
    return write_manifest(folder, dataset, merged, users, items)


def _with_ids(table: Any, ids: list[str], told: Any, side: str) -> Any:
    """A users or items table with rows for new ids: the dataset's columns, null where nothing was told.

    Raises:
        DataError: a column that was told has another type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pa.array(ids, table.schema.field("id").type)
    found = told.take(pc.index_in(names, value_set=told.column("id").combine_chunks()))
    new = _as_in(table.schema, found, f"new {side}").set_column(0, "id", names)
    return pa.concat_tables([table, new])


def _as_in(schema: Any, given: Any, file: str) -> Any:
    """The columns of a schema, null where a table has no such one.

    Raises:
        DataError: a column of the table has another type.
    """
    import pyarrow as pa

    columns = {}
    for field in schema:
        if field.name not in given.column_names:
            columns[field.name] = pa.nulls(len(given), field.type)
            continue
        try:
            columns[field.name] = given.column(field.name).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            kind = given.schema.field(field.name).type
            raise DataError(
                f"{kind}, and the dataset holds {field.type}: give it the dataset's type, or leave it out",
                file=file,
                column=field.name,
            ) from None
    return pa.table(columns, schema=schema)


def _with_rows(old: Any, new: Arrivals, source: np.ndarray) -> Any:
    """Event attributes in event order: the dataset's columns, null where the file has no such one.

    Raises:
        DataError: a column of the file has another type.
    """
    import pyarrow as pa

    both = pa.concat_tables([old, _as_in(old.schema, new.attributes, new.name)])
    return both.take(pa.array(source))


def _clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
