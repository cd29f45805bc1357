"""Rows of one collection, by id or by filter, and as records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import suggestion
from duality.index.remote.connection import Store
from duality.index.remote.filters import ALL, condition_of, ids_condition
from duality.index.remote.ledger import State
from duality.index.remote.rows import id_of, key_of, slots_in, vectors_in
from duality.index.remote.schema import PARTS

# Ids per expression: the longest are 3,072 characters each.
BLOCK = 1_000
# About how large the attributes of a row are, for the size of a page.
_ATTRIBUTES = 400

Row = dict[str, Any]


def rows_of(store: Store, collection: str, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
    """Rows of those ids that are stored, by id; `id` must be among `fields`."""
    found = {}
    for start in range(0, len(ids), BLOCK):
        rows = store.fetch(collection, ids_condition(list(ids[start : start + BLOCK])), fields)
        found.update({id_of(row["id"]): row for row in rows})
    return found


def rows_where(
    store: Store, collection: str, state: State, where: str | None, fields: Sequence[str]
) -> list[Row]:
    """Rows that match a filter, in id order; `id` must be among `fields`.

    Raises:
        FilterError: the filter does not parse or does not fit the columns.
    """
    condition = condition_of(where, state)
    wanted = [*fields, *(["attributes"] if condition.matcher and "attributes" not in fields else [])]
    blocks = store.scan(collection, wanted, condition.expression, row_bytes(wanted, state.dim))
    rows = [row for block in blocks for row in block]
    if condition.matcher is not None:
        rows = [row for row in rows if condition.matcher(row)]
    return sorted(rows, key=lambda row: id_of(row["id"]))


def row_bytes(fields: Sequence[str], dim: int) -> int:
    """About how large a row of these fields is."""
    return 100 + (4 * dim if "vector" in fields else 0) + (_ATTRIBUTES if "attributes" in fields else 0)


def sample(store: Store, collection: str, rows: int, dim: int) -> NDArray[np.float32]:
    """Up to `rows` vectors float32 [N, D], of ids with the lowest hashes: spread, and always the same."""
    held = max(1, store.count(collection))
    share = min(1.0, 1.5 * rows / held + 100 / held)
    condition = f"part < {math.ceil(PARTS * share)}"
    fields = ["id", "vector", "part"]
    blocks = store.scan(collection, fields, condition, row_bytes(fields, dim))
    found = sorted((row for block in blocks for row in block), key=lambda row: (row["part"], row["id"]))
    return np.ascontiguousarray(vectors_in(found[:rows], dim)[:, :dim])


def as_records(rows: Sequence[Row], state: State) -> list[dict[str, Any]]:
    """Rows as {id, vector float32 [D], attributes}."""
    vectors = vectors_in(rows, state.dim)[:, : state.dim]
    return [
        {"id": id_of(row["id"]), "vector": vector.copy(), "attributes": state.outside(slots_in(row))}
        for row, vector in zip(rows, vectors)
    ]


def near(store: Store, collection: str, id: str) -> str:
    """' (did you mean a, b?)' among ids that start alike, or some id; '' on an empty side."""
    # In a pattern `_` stands for any one character.
    start = "".join(letter if letter.isalnum() else "_" for letter in key_of(id[:2]))
    rows = store.fetch(collection, f'id like "{start}%"', ["id"]) or store.fetch(collection, ALL, ["id"])
    known = sorted(id_of(row["id"]) for row in rows)
    below, above = [held for held in known if held < id], [held for held in known if held > id]
    beside = ", ".join(below[-1:] + above[:1])
    return suggestion(id, below[-50:] + above[:50]) or (f" (beside it: {beside})" if beside else "")
