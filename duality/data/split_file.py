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
from pyarrow import csv, parquet

from duality.data.splits import FILE, Split
from duality.errors import DataError, InputError, suggestion

if TYPE_CHECKING:
    from duality.data.dataset import Dataset

COLUMNS = ("user", "item", "part")
PARTS = ("train", "validation", "test")


def read_split(dataset: Dataset, name: str) -> Split:
    """The split that "file:PATH" names.

    Raises:
        InputError: no such file, a column is missing, an id or a part is unknown (the row is named),
            a pair has two parts, or no event is left to test.
    """
    path = Path(name.removeprefix(FILE))
    table = _read(path)
    user = _rows(table, "user", dataset.user_ids.find, path)
    item = _rows(table, "item", dataset.item_ids.find, path)
    part = _parts(table, path)
    events = _parts_of_events(dataset, user * dataset.num_items + item, part, path)
    if not (events == PARTS.index("test")).any():
        raise InputError(f"{path}: no event of this dataset is in part test")
    validation, test = (np.flatnonzero(events == PARTS.index(part)) for part in PARTS[1:])
    return Split(name, events == 0, validation, test)


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path}: no such split file")
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:
            table = csv.read_csv(
                path,
                parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","),
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string())),
            )
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read: {str(error).splitlines()[0]}", file=str(path)) from None
    for column in COLUMNS:
        if column not in table.column_names:
            near = suggestion(column, table.column_names)
            raise DataError(
                f"a split needs columns user, item and part; found {', '.join(table.column_names)}{near}",
                file=str(path),
                column=column,
            )
    return table


def _rows(table: pa.Table, column: str, find: object, path: Path) -> np.ndarray:
    values = table[column].cast(pa.string()).to_pylist()
    assert callable(find)
    rows = np.asarray(find(["" if value is None else value for value in values]), np.int64)
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"id '{values[first]}' is not in the dataset ({len(unknown)} such rows)",
            file=str(path),
            row=first + 1,
            column=column,
        )
    return rows


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
