"""Somebody else's ranked lists as a scorer.

Reads: Parquet or CSV/TSV with columns `query`, `id` and `rank` (1 = best) or `score`
       (higher is better; used when both are there). `query` is a user id for user-to-item
       and an item id for item-to-user.
Trades: a list says nothing about what it leaves out. Unlisted candidates share the last
       place, and as ties count against the target, so does an unlisted target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import sparse

from duality.errors import DataError, InputError, suggestion
from duality.evaluation.baselines import check_fitted
from duality.evaluation.queries import Queries

if TYPE_CHECKING:
    import pyarrow as pa


class IdLookup(Protocol):
    """External ids of one side to dense rows."""

    def __len__(self) -> int:
        """Rows of the side."""

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Row of each id, int64 [N], -1 for an unknown one."""


class RunFile:
    """Scores from a foreign run; -inf for what it does not list.

    Args:
        name: how results call it.
        direction: what its queries ask for.
        listed: sparse float64 [sources, targets], one stored value per listed pair.
    """

    def __init__(self, name: str, direction: str, listed: sparse.csr_matrix) -> None:
        self.name, self.direction, self.listed = name, direction, listed

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """The listed scores, -inf elsewhere: float64 [B, N]."""
        check_fitted(self.direction, direction, self.name)
        block = self.listed[queries.sources(direction)[rows]]
        scores = np.full(block.shape, -np.inf)
        scores[np.repeat(np.arange(len(scores)), np.diff(block.indptr)), block.indices] = block.data
        return scores


def read_run(path: Path, *, query_ids: IdLookup, target_ids: IdLookup, direction: str) -> RunFile:
    """Read a run file.

    Args:
        path: Parquet (`.parquet`) or text (`.csv`, `.tsv`).
        query_ids: ids of the asking side: users for user-to-item.
        target_ids: ids of the asked side: items for user-to-item.
        direction: what the lists answer.

    Raises:
        InputError: no such file, missing column, unknown id, a pair listed twice, or a rank
            or score that is not a number; the row is named.
    """
    path = Path(path)
    table = _read_table(path)
    query = _rows_of(table, "query", query_ids, path)
    target = _rows_of(table, "id", target_ids, path)
    _refuse_repeats(query * max(len(target_ids), 1) + target, path)
    listed = sparse.coo_matrix(
        (_scores_of(table, path), (query, target)), shape=(len(query_ids), len(target_ids))
    )
    return RunFile(path.stem, direction, listed.tocsr())


def _read_table(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, parquet

    if not path.is_file():
        raise InputError(f"{path}: no such run file")
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        elif path.suffix in (".csv", ".tsv"):
            text = pa.string()
            table = csv.read_csv(
                path,
                parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","),
                convert_options=csv.ConvertOptions(column_types={"query": text, "id": text}),
            )
        else:
            raise DataError("a run file is .parquet, .csv or .tsv", file=str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read: {str(error).splitlines()[0]}", file=str(path)) from None
    _check_columns(table.column_names, path)
    return table


def _check_columns(found: list[str], path: Path) -> None:
    missing = [name for name in ("query", "id") if name not in found]
    if not missing and not {"rank", "score"} & set(found):
        missing = ["rank or score"]
    if missing:
        near = suggestion(missing[0], found)
        raise DataError(
            f"a run needs columns query, id and rank or score; found {', '.join(found)}{near}",
            file=str(path),
            column=missing[0],
        )


def _rows_of(table: pa.Table, column: str, ids: IdLookup, path: Path) -> np.ndarray:
    import pyarrow as pa

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


def _scores_of(table: pa.Table, path: Path) -> np.ndarray:
    import pyarrow as pa

    column = "score" if "score" in table.column_names else "rank"
    try:
        values = table[column].cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(
            f"not a number: {str(error).splitlines()[0]}", file=str(path), column=column
        ) from None
    if len(bad := np.flatnonzero(np.isnan(values))):
        raise DataError("not a number", file=str(path), row=int(bad[0]) + 1, column=column)
    return values if column == "score" else -values


def _refuse_repeats(keys: np.ndarray, path: Path) -> None:
    first = np.unique(keys, return_index=True)[1]
    if len(first) < len(keys):
        later = np.setdiff1d(np.arange(len(keys)), first)
        raise DataError("this query lists this id twice", file=str(path), row=int(later[0]) + 1, column="id")
