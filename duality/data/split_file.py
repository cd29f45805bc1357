"""Somebody's own division of the events.

Reads: Parquet, CSV or TSV with columns `user`, `item` and `part` (train, validation or test). Every event
       of a listed pair gets the part; pairs that are not listed train.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from duality.data.id_tables import need_column, read_id_table, rows_of_ids
from duality.data.split import Split
from duality.errors import DataError, InputError

if TYPE_CHECKING:
    from duality.data.dataset import Dataset

FILE = "file:"
COLUMNS = ("user", "item", "part")
PARTS = ("train", "validation", "test")


def read_split(dataset: Dataset, name: str) -> Split:
    """The split that "file:PATH" names.

    Raises:
        InputError: no such file, a column is missing, an id or a part is unknown (the row is named),
            a pair has two parts, or no event is left to test.
    """
    path = Path(name.removeprefix(FILE))
    table = read_id_table(path, "split", COLUMNS)
    for column in COLUMNS:
        need_column(column, table.column_names, "a split needs columns user, item and part", path)
    user = rows_of_ids(table, "user", dataset.user_ids, path)
    item = rows_of_ids(table, "item", dataset.item_ids, path)
    part = _parts(table, path)
    events = _parts_of_events(dataset, user * dataset.num_items + item, part, path)
    if not (events == PARTS.index("test")).any():
        raise InputError(f"{path}: no event of this dataset is in part test")
    validation, test = (np.flatnonzero(events == PARTS.index(part)) for part in PARTS[1:])
    return Split(name, events == 0, validation, test)


def _parts(table: pa.Table, path: Path) -> np.ndarray:
    found = pc.index_in(table["part"].cast(pa.string()), value_set=pa.array(PARTS)).to_pylist()
    if None in found:
        row = found.index(None)
        raise DataError(
            f"part '{table['part'][row].as_py()}' is none of {', '.join(PARTS)}",
            file=str(path),
            row=row + 1,
            column="part",
        )
    return np.array(found, np.int64)


def _parts_of_events(dataset: Dataset, pairs: np.ndarray, part: np.ndarray, path: Path) -> np.ndarray:
    """Part number of every event, int64 [E]; 0 (train) where the pair is not listed."""
    order = np.argsort(pairs, kind="stable")
    keys, parts = pairs[order], part[order]
    twice = np.flatnonzero((keys[1:] == keys[:-1]) & (parts[1:] != parts[:-1]))
    if len(twice):
        row = int(order[twice[0] + 1])
        raise DataError("this pair has two parts", file=str(path), row=row + 1, column="part")
    wanted = dataset.event_user.astype(np.int64) * dataset.num_items + dataset.event_item
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, parts[place], 0)
