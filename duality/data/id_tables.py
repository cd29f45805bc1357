"""Tables from outside whose columns hold external ids: Parquet, CSV or TSV.

Every problem is one line that names file, row and column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from duality.errors import DataError, InputError, suggestion


class IdLookup(Protocol):
    """External ids of one side to dense rows."""

    def __len__(self) -> int:
        """Rows of the side."""

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Row of each id, int64 [N], -1 for an unknown one."""


def read_id_table(path: Path, what: str, texts: Sequence[str]) -> pa.Table:
    """A table by the suffix of its file.

    Args:
        path: `.parquet`, `.csv` or `.tsv`.
        what: what the file is, for messages: "run", "split".
        texts: columns that are read as text, ids that look like numbers too.

    Raises:
        InputError: no such file.
        DataError: it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such {what} file")
    try:
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        if path.suffix not in (".csv", ".tsv"):
            raise DataError(f"a {what} file is .parquet, .csv or .tsv", file=str(path))
        types: Mapping[str, pa.DataType] = dict.fromkeys(texts, pa.string())
        return csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","),
            convert_options=csv.ConvertOptions(column_types=types),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read: {str(error).splitlines()[0]}", file=str(path)) from None


def need_column(column: str, found: Sequence[str], needs: str, path: Path) -> None:
    """Raise DataError when a column is missing; `needs` says what the file has to hold."""
    if column not in found:
        near = suggestion(column, found)
        raise DataError(f"{needs}; found {', '.join(found)}{near}", file=str(path), column=column)


def rows_of_ids(table: pa.Table, column: str, ids: IdLookup, path: Path) -> np.ndarray:
    """Dense row of each id of a column, int64 [N].

    Raises:
        DataError: an id is empty or unknown; the row is named.
    """
    values = table[column].cast(pa.string()).to_pylist()
    if None in values:
        raise DataError("empty id", file=str(path), row=values.index(None) + 1, column=column)
    rows = np.asarray(ids.find(values), dtype=np.int64)
    if len(unknown := np.flatnonzero(rows < 0)):
        first = int(unknown[0])
        raise DataError(
            f"id '{values[first]}' is not in the dataset ({len(unknown)} such rows)",
            file=str(path),
            row=first + 1,
            column=column,
        )
    return rows
