"""Somebody else's ranked lists as a scorer.

Reads: Parquet or CSV/TSV with columns `query`, `id` and `rank` (1 = best) or `score`
       (higher is better; used when both are there). `query` is a user id for user-to-item
       and an item id for item-to-user.
Trades: a list says nothing about what it leaves out. Unlisted candidates share the last
       place, and as ties count against the target, so does an unlisted target.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from duality.data.id_tables import IdLookup, need_column, read_id_table, rows_of_ids
from duality.errors import DataError
from duality.evaluation.baselines import check_fitted
from duality.evaluation.queries import Queries

if TYPE_CHECKING:
    import pyarrow as pa


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
    query = rows_of_ids(table, "query", query_ids, path)
    target = rows_of_ids(table, "id", target_ids, path)
    _refuse_repeats(query * max(len(target_ids), 1) + target, path)
    listed = sparse.coo_matrix(
        (_scores_of(table, path), (query, target)), shape=(len(query_ids), len(target_ids))
    )
    return RunFile(path.stem, direction, listed.tocsr())


def _read_table(path: Path) -> pa.Table:
    table = read_id_table(path, "run", ("query", "id"))
    needs = "a run needs columns query, id and rank or score"
    for column in ("query", "id"):
        need_column(column, table.column_names, needs, path)
    if not {"rank", "score"} & set(table.column_names):
        need_column("rank or score", table.column_names, needs, path)
    return table


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
