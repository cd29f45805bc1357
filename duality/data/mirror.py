"""A dataset with users and items swapped: items become the ones with histories.

An ordinary one-sided network trained on the mirror learns the next user of an item, which is the
strongest one-sided answer to "who comes next?".

Reads:  a timed dataset and a split of it.
Writes: a dataset folder, the split as a file inside it, and in `event_attributes.parquet` the number that
        each event has in the original. Attributes of users and items stay behind.

Shapes: E events.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from duality.artifacts import atomic_file
from duality.data.importing import import_events
from duality.data.split import Split
from duality.data.split_file import FILE, PARTS
from duality.errors import InputError

if TYPE_CHECKING:
    from duality.data.dataset import Dataset

SPLIT = "split.parquet"
EVENT = "original_event"


def write_mirror(dataset: Dataset, split: Split, out: Path) -> dict[str, Any]:
    """Write the mirror of a dataset and of a split.

    A split file speaks of pairs. A pair with hidden events is therefore hidden altogether in the mirror,
    and events that are in no part of the split (temporal) are in its test part: nothing trains there
    that did not train here.

    Args:
        dataset: timed.
        split: of that dataset.
        out: the folder to create or replace.

    Returns:
        `dataset`, `split` (for `split.name`), `users`, `items`, `events`, and `withheld`: training events
        that are hidden in the mirror because their pair comes again in a hidden one.

    Raises:
        InputError: the log has no time, or `out` is the dataset itself or something else.
    """
    if dataset.event_time is None:
        raise InputError(f"{dataset.path} has no times, so its items have no order of users to learn from")
    if Path(out).resolve() == dataset.path.resolve():
        raise InputError(f"{out}: the mirror would replace its original: choose another folder")
    made = import_events(_swapped(dataset), out, user_column="user", item_column="item", time_column="time")
    table, withheld = _hidden_pairs(dataset, split)
    path = Path(out) / SPLIT
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    counts = {name: made[name] for name in ("users", "items", "events")}
    return {"dataset": str(out), "split": f"{FILE}{path}", **counts, "withheld": withheld}


def _swapped(dataset: Dataset) -> pa.Table:
    """The log with its two ids exchanged [E]: columns user, item, time and the event's number."""
    assert dataset.event_time is not None
    time = pa.array(np.asarray(dataset.event_time)).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "user": dataset.items()["id"].take(pa.array(np.asarray(dataset.event_item))),
            "item": dataset.users()["id"].take(pa.array(np.asarray(dataset.event_user))),
            "time": time,
            EVENT: np.arange(dataset.num_events),
        }
    )


def _hidden_pairs(dataset: Dataset, split: Split) -> tuple[pa.Table, int]:
    """Split table of the mirror, one row for each pair that does not train, and what it withholds."""
    part = np.full(dataset.num_events, PARTS.index("test"))
    part[split.train] = PARTS.index("train")
    part[split.validation] = PARTS.index("validation")
    pair = dataset.event_user.astype(np.int64) * dataset.num_items + dataset.event_item
    pairs, place = np.unique(pair, return_inverse=True)
    most_hidden = np.zeros(len(pairs), np.int64)
    np.maximum.at(most_hidden, place, part)
    hidden = most_hidden > 0
    user, item = np.divmod(pairs[hidden], dataset.num_items)
    table = pa.table(
        {
            "user": dataset.items()["id"].take(pa.array(item)),
            "item": dataset.users()["id"].take(pa.array(user)),
            "part": pa.array(PARTS).take(pa.array(most_hidden[hidden])),
        }
    )
    return table, int(np.count_nonzero(hidden[place] & split.train))


def original_events(mirrored: Dataset, dataset: Dataset) -> np.ndarray:
    """Number in `dataset` of each event of its mirror, int64 [E].

    Raises:
        InputError: `mirrored` is not the mirror of `dataset`.
    """
    attributes = mirrored.event_attributes()
    if attributes is None or EVENT not in attributes.column_names:
        raise InputError(f"{mirrored.path} is no mirror: make one with duality.workflows.mirror.mirror")
    events = attributes[EVENT].to_numpy().astype(np.int64)
    if not _is_mirror(mirrored, dataset, events):
        raise InputError(f"{mirrored.path} is not the mirror of {dataset.path}: make it again from that")
    return events


def _is_mirror(mirrored: Dataset, dataset: Dataset, events: np.ndarray) -> bool:
    if dataset.event_time is None or mirrored.event_time is None or len(events) != dataset.num_events:
        return False
    if not np.array_equal(np.sort(events), np.arange(len(events))):
        return False
    user = dataset.user_ids.find(mirrored.items()["id"].to_pylist())[mirrored.event_item]
    item = dataset.item_ids.find(mirrored.users()["id"].to_pylist())[mirrored.event_user]
    return (
        np.array_equal(user, dataset.event_user[events])
        and np.array_equal(item, dataset.event_item[events])
        and np.array_equal(mirrored.event_time, dataset.event_time[events])
    )
