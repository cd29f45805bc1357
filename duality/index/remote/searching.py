"""Search of one collection: on the server where its answer is right, by reading rows where it is not.

The server answers when the filter is exact there and either its structure is exact too or enough
records match. Otherwise, and for queries whose answer came back short, the matching rows are read
once and scored here.

Shapes: Q queries, k results per query, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.remote.connection import Store
from duality.index.remote.filters import ALL, Condition
from duality.index.remote.ledger import State
from duality.index.remote.records import row_bytes
from duality.index.remote.rows import id_of, key_of, queries_of, vectors_in
from duality.index.remote.schema import MAX_ROWS, search_parameters

Matrix = NDArray[np.float32]
Names = NDArray[np.object_]
# Graphs and lists lose recall when few records match; so few are read and scored instead.
GATHER = 10_000
_BLOCK_QUERIES = 256
_BLOCK_RESULTS = 1_000_000


@dataclass(frozen=True)
class Decision:
    """Whether the server answers, why, and which share of the records may be returned."""

    on_server: bool
    reason: str
    share: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where to search: a collection, its state and recipe, and which records may be returned."""

    store: Store
    collection: str
    state: State
    options: Mapping[str, Any]
    condition: Condition

    def decide(self, exact: bool) -> Decision:
        """Who answers: the server where its answer is right, or as near as its structure comes."""
        kind, expression = self.state.structure["index_type"], self.condition.expression
        if self.condition.matcher is not None:
            return Decision(False, "the store cannot say the whole filter")
        if kind == "FLAT":
            return Decision(True, "the store scores every matching record")
        if exact:
            return Decision(False, f"{kind} on the store is approximate")
        if expression == ALL:
            return Decision(True, f"no filter, {kind} on the store")
        count = self.store.count(self.collection, expression)
        if count <= GATHER:
            return Decision(False, f"{count:,} records match, at most {GATHER:,}")
        return Decision(
            True, f"{count:,} records match, more than {GATHER:,}", count / max(self.state.count, count)
        )

    def parameters(self, decision: Decision, limit: int) -> dict[str, int]:
        """Search parameters of the server for `limit` results."""
        return search_parameters(self.options, self.state.structure, limit, decision.share)


def search(
    place: Place, queries: Matrix, k: int, excluded: Sequence[Sequence[str]] | None, exact: bool
) -> tuple[Names, Matrix]:
    """Best k records per query.

    Args:
        place: what to search.
        queries: float32 [Q, D].
        k: results per query.
        excluded: per query, ids that must not be returned.
        exact: score every candidate.

    Returns:
        Ids object [Q, k] and scores float32 [Q, k], best first; None and -inf pad.
    """
    banned = [frozenset(map(key_of, row)) for row in excluded or [()] * len(queries)]
    keys = np.full((len(queries), k), None, object)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    short = np.arange(len(queries))
    decision = place.decide(exact)
    if decision.on_server:
        short = _ask(place, decision, queries, banned, keys, scores)
    if len(short):
        keys[short], scores[short] = _read(place, queries[short], k, [banned[row] for row in short])
    return _named(keys), scores


def _ask(
    place: Place,
    decision: Decision,
    queries: Matrix,
    banned: Sequence[frozenset[str]],
    keys: Names,
    scores: Matrix,
) -> NDArray[np.int64]:
    """Fill `keys` and `scores` [Q, k] from the server; returns the rows that it left short."""
    k = keys.shape[1]
    lengths = np.array([len(row) for row in banned], np.int64)
    short: list[int] = []
    # Queries that exclude about as much share a call, since all of a call fetch the same number.
    order, start = np.argsort(lengths, kind="stable"), 0
    while start < len(order):
        rows = order[start : start + _BLOCK_QUERIES]
        rows = rows[: max(1, _BLOCK_RESULTS // (k + int(lengths[rows[-1]])))]
        start += len(rows)
        answers = _call(place, decision, queries[rows], k + int(lengths[rows[-1]]))
        for row, hits in zip(rows.tolist(), answers):
            kept = [hit for hit in hits if hit[0] not in banned[row]][:k]
            keys[row, : len(kept)] = [key for key, _ in kept]
            scores[row, : len(kept)] = [score for _, score in kept]
            short += [row] if len(kept) < k else []
    return np.array(sorted(short), np.int64)


def _call(place: Place, decision: Decision, queries: Matrix, limit: int) -> list[list[tuple[str, float]]]:
    if limit > MAX_ROWS:
        return [[]] * len(queries)
    parameters, expression = place.parameters(decision, limit), place.condition.expression
    return place.store.search(place.collection, queries_of(queries), limit, expression, parameters)


def _read(place: Place, queries: Matrix, k: int, banned: Sequence[frozenset[str]]) -> tuple[Names, Matrix]:
    """Best k of all matching records, read in blocks."""
    keys = np.full((len(queries), k), None, object)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    matches, dim = place.condition.matcher, place.state.dim
    fields = ["id", "vector"] + (["attributes"] if matches else [])
    size = row_bytes(fields, dim)
    for block in place.store.scan(place.collection, fields, place.condition.expression, size):
        rows = [row for row in block if matches is None or matches(row)]
        table = np.array([row["id"] for row in rows], object)
        vectors = vectors_in(rows, dim)[:, :dim]
        for start in range(0, len(queries) if rows else 0, _BLOCK_QUERIES):
            part = slice(start, start + _BLOCK_QUERIES)
            found = _scored(queries[part], vectors, table, banned[part])
            keys[part], scores[part] = _merged(keys[part], scores[part], table, found)
    keys[np.isneginf(scores)] = None
    return keys, scores


def _scored(queries: Matrix, vectors: Matrix, table: Names, banned: Sequence[frozenset[str]]) -> Matrix:
    found = queries @ vectors.T
    if any(banned):
        column = {key: number for number, key in enumerate(table)}
        for row, keys in enumerate(banned):
            found[row, [column[key] for key in keys if key in column]] = -np.inf
    return found


def _merged(keys: Names, scores: Matrix, table: Names, found: Matrix) -> tuple[Names, Matrix]:
    """The best k of each row, of those so far [Q, k] and of a block [Q, B]."""
    k = keys.shape[1]
    if found.shape[1] > k:
        top = np.argpartition(-found, k - 1, axis=1)[:, :k]
    else:
        top = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    scores = np.hstack([scores, np.take_along_axis(found, top, 1)])
    keys = np.hstack([keys, table[top]])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(keys, order, 1), np.take_along_axis(scores, order, 1)


def _named(keys: Names) -> Names:
    """Stored ids [Q, k] as ids."""
    names = {key: id_of(key) for key in set(keys.ravel()) if key is not None}
    return np.array([names.get(key) for key in keys.ravel()], object).reshape(keys.shape)
