"""Records of one side on a server; the same methods and answers as `duality.index.side.Side`.

Reads:  strongly consistent: a read after an acknowledged write sees it.
Writes: upserts in calls of at most 8 MB, each of which the server applies whole.
Cost:   a write takes five round trips or more, a read one to three; batch your upserts.

Not guaranteed, since the server has no transactions: a batch of several calls may be half applied
when the server or this process dies in it. `verify` then says that a batch was cut off; sending
the same batch again completes it. A read of many rows is no snapshot while somebody writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from duality.errors import DataError, InputError, UnknownIdError
from duality.index.attributes import columns_from
from duality.index.batches import check_ids, check_vectors
from duality.index.remote.connection import Store
from duality.index.remote.filters import condition_of, ids_condition
from duality.index.remote.ledger import Ledger, State
from duality.index.remote.records import BLOCK, Row, as_records, near, rows_of, rows_where, sample
from duality.index.remote.rows import build_rows, calls, extended, id_of, merged, slots_in, vectors_in

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.index.remote.searching import Place
    from duality.index.structures.plan import Plan

MAX_K = 1_000_000


class RemoteSide:
    """Users or items of an index on a server; made by `pair.RemotePair`. Threads may share it.

    Args:
        store: the connection.
        collection: where the records are.
        ledger: where the counters are.
        name: "users" or "items".
        options: `IndexSpec.options()`.
        writable: whether the caller holds the writer's lock.
        model: fingerprint of the model whose vectors these are, if known.
    """

    def __init__(
        self,
        store: Store,
        collection: str,
        ledger: Ledger,
        name: str,
        options: Mapping[str, Any],
        *,
        writable: bool,
        model: str | None = None,
    ) -> None:
        self.store, self.collection, self.ledger = store, collection, ledger
        self.name, self.options, self.writable = name, dict(options), writable
        self.model = model
        self._lock = threading.RLock()
        self.dim = ledger.read().dim

    @property
    def kind(self) -> str:
        """exact, ivf or hnsw."""
        return self.options["kind"]

    @property
    def count(self) -> int:
        """Stored records."""
        return self.store.count(self.collection)

    @property
    def version(self) -> int:
        """Number of acknowledged batches so far."""
        return self.ledger.read().version

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute name to kind."""
        return self.ledger.read().kinds()

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32] | None = None,
        attributes: pa.Table | None = None,
        *,
        model: str | None = None,
    ) -> int:
        """Insert records, or replace those whose id is stored; acknowledged on return.

        Args:
            ids: N different ids.
            vectors: float32 [N, dim]; None changes only attributes of stored records.
            attributes: N rows; columns that it lacks keep their values.
            model: fingerprint of the model that made the vectors, if known.

        Returns:
            N.

        Raises:
            DataError: a row does not fit; the message names the first, and nothing is written.
            InputError: the vectors are of another model than those stored.
            DualityError: the server failed; nothing was acknowledged.
        """
        self._need_writable()
        self.check_model(model)
        ids = check_ids(ids)
        vectors = None if vectors is None else check_vectors(vectors, self.dim, rows=len(ids))
        columns = columns_from(attributes, len(ids))
        if not ids:
            return 0
        with self._lock:
            state = self.ledger.read()
            wider = state.with_columns(columns)
            held = self._held(ids, state, with_vectors=vectors is None)
            full = _full(ids, vectors, held, state)
            rows = build_rows(ids, full, merged(ids, held, columns, wider.slots()))
            begun = self._begin(wider)
            for portion in calls(rows, self.dim):
                self.store.upsert(self.collection, portion)
            self._finish(begun, added=len(ids) - len(held), removed=0)
        return len(ids)

    def _held(self, ids: Sequence[str], state: State, *, with_vectors: bool) -> dict[str, Row]:
        """Stored rows by id, with what a write must keep of them."""
        fields = ["id"] + (["attributes"] if state.columns else []) + (["vector"] if with_vectors else [])
        return rows_of(self.store, self.collection, ids, fields)

    def _begin(self, state: State) -> State:
        # A batch that was cut off left the count unknown.
        count = self.count if state.pending else state.count
        begun = replace(state, pending=True, count=count)
        self.ledger.write(begun)
        return begun

    def _finish(self, begun: State, *, added: int, removed: int) -> None:
        done = replace(
            begun,
            pending=False,
            version=begun.version + 1,
            count=begun.count + added - removed,
            deleted=begun.deleted + removed,
        )
        self.ledger.write(done)

    def delete(
        self, ids: Iterable[str] | None = None, where: str | None = None, *, erase: bool = False
    ) -> tuple[int, list[str]]:
        """Remove records by id or by filter; acknowledged on return.

        Returns:
            How many were removed, and the given ids that were not stored.

        Raises:
            InputError: `erase`: when the bytes of a deleted record go is the server's decision.
        """
        if erase:
            raise InputError(
                f"{self.collection} is on a store, which keeps deleted records on its disk until it "
                "compacts: delete without erasing, then let its keeper compact it and purge backups"
            )
        self._need_writable()
        if (ids is None) == (where is None):
            raise InputError("delete takes either ids or a filter")
        asked = list(dict.fromkeys(ids or []))
        with self._lock:
            state = self.ledger.read()
            if where is None:
                gone = list(rows_of(self.store, self.collection, asked, ["id"]))
            else:
                gone = [id_of(row["id"]) for row in self._rows(where, ["id"], state)]
            if gone:
                begun = self._begin(state)
                for start in range(0, len(gone), BLOCK):
                    self.store.delete(self.collection, ids_condition(gone[start : start + BLOCK]))
                self._finish(begun, added=0, removed=len(gone))
        held = set(gone)
        return len(gone), [id for id in asked if id not in held]

    def get(self, ids: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """Records {id, vector float32 [D], attributes} in the order asked, and ids not stored."""
        asked = list(dict.fromkeys(ids))
        rows = rows_of(self.store, self.collection, asked, ["id", "vector", "attributes"])
        found = [rows[id] for id in asked if id in rows]
        return as_records(found, self.ledger.read()), [id for id in asked if id not in rows]

    def attributes_of(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Attributes by id, of those ids that are stored; cheaper than `get`."""
        rows = rows_of(self.store, self.collection, list(dict.fromkeys(ids)), ["id", "attributes"])
        state = self.ledger.read()
        return {id: state.outside(slots_in(row)) for id, row in rows.items()}

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 [N, D] in the order of `ids`.

        Raises:
            UnknownIdError: an id is not stored; near ones are suggested.
        """
        rows = rows_of(self.store, self.collection, list(dict.fromkeys(ids)), ["id", "vector"])
        for id in ids:
            if id not in rows:
                hint = near(self.store, self.collection, id)
                raise UnknownIdError(f"{self.name} index: no id {id}{hint}")
        return self._values([rows[id] for id in ids])

    def matching(self, where: str | None = None) -> tuple[list[str], NDArray[np.float32]]:
        """Ids and vectors float32 [N, D] of all records that match a filter, in id order."""
        rows = self._rows(where, ["id", "vector"], self.ledger.read())
        return [id_of(row["id"]) for row in rows], self._values(rows)

    def blocks(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and vectors float32 [n, D] of all records, in id order; the server promises no order, so all come at once."""
        yield self.matching()

    def ids_where(self, where: str) -> Sequence[str]:
        """Ids of the records that match a filter; FilterError where it does not fit."""
        return [id_of(row["id"]) for row in self._rows(where, ["id"], self.ledger.read())]

    def list(
        self, where: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Records in id order that match a filter; `after` an id continues a listing."""
        if limit is not None and limit < 0:
            raise InputError(f"limit {limit}: give 0 or more")
        state = self.ledger.read()
        if limit is None and after is None:
            return as_records(self._rows(where, ["id", "vector", "attributes"], state), state)
        # The server promises no order, so the ids of all matches decide what a page holds.
        found = [id_of(row["id"]) for row in self._rows(where, ["id"], state)]
        return self.get([id for id in found if id > (after or "")][:limit])[0]

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[Sequence[str]] | None = None,
        exact: bool = False,
        *,
        model: str | None = None,
        device: str | None = None,
    ) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        """Records with the largest inner products.

        Args:
            vectors: float32 [Q, D].
            k: results per query.
            where: filter over attributes and `id`.
            exclude: per query, ids that must not be returned; unknown ones are ignored.
            exact: score every candidate instead of using the structure.
            model: fingerprint of the model that made the queries, if known.
            device: None; a server searches where it is.

        Returns:
            ids object [Q, k] of str and scores float32 [Q, k], best first. None and -inf pad a
            row when fewer than k records match.
        """
        from duality.index.remote.searching import search

        queries = check_vectors(vectors, self.dim)
        if not 1 <= k <= MAX_K:
            raise InputError(f"k {k}: give 1 to {MAX_K:,}")
        if exclude is not None and len(exclude) != len(queries):
            raise InputError(f"{len(exclude)} lists of excluded ids for {len(queries)} queries")
        if device is not None:
            raise InputError(f"device {device}: a store searches where it is")
        self.check_model(model)
        return search(self._place(where), queries, k, exclude, exact)

    def _place(self, where: str | None) -> Place:
        from duality.index.remote.searching import Place

        state = self.ledger.read()
        return Place(self.store, self.collection, state, self.options, condition_of(where, state))

    def plan(self, k: int = 10, where: str | None = None, exact: bool = False) -> Plan:
        """How a search would be done, and why: "store", or "gather and scan" with the rows read here."""
        from duality.index.structures.plan import Plan

        place = self._place(where)
        decision = place.decide(exact)
        count = self.store.count(self.collection, place.condition.expression)
        if not decision.on_server:
            return Plan("gather and scan", decision.reason, count)
        return Plan("store", decision.reason, count, place.parameters(decision, k))

    def tune(self, queries: NDArray[np.float32], k: int, target: float) -> NoReturn:
        """Refused: timings over a network measure the network.

        Raises:
            InputError: always; says what to do instead.
        """
        raise InputError(f"{self.name} are on a store: set nprobe or ef_search in the spec and build again")

    def sample(self, rows: int) -> NDArray[np.float32]:
        """Up to `rows` stored vectors, float32 [N, D], spread over the side, the same at every call."""
        return sample(self.store, self.collection, rows, self.dim)

    def check_model(self, model: str | None) -> None:
        """Raise InputError when `model` is another than the one whose vectors are stored."""
        if model is not None and self.model is not None and model != self.model:
            raise InputError(
                f"vectors of model {model} do not belong into an index of model {self.model}: "
                "build an index for that model"
            )

    def snapshot(self) -> None:
        """Let the server write what it holds to its disk; it keeps its structures up to date itself."""
        self._need_writable()
        self.store.flush(self.collection)

    def compact(self) -> None:
        """Ask the server to give back the space of removed records, which it does in its own time."""
        self._need_writable()
        with self._lock:
            self.store.flush(self.collection)
            self.store.compact(self.collection)
            self.ledger.write(replace(self.ledger.read(), deleted=0))

    def stats(self) -> dict[str, Any]:
        """count, deleted, dim, kind, version, bytes of the vectors (a server hides its disk), attributes."""
        state, count = self.ledger.read(), self.count
        return {
            "count": count,
            "deleted": state.deleted,
            "dim": self.dim,
            "kind": self.kind,
            "version": state.version,
            "bytes": count * 4 * (self.dim + 1),
            "attributes": state.kinds(),
        }

    def verify(self) -> Sequence[str]:
        """What is damaged, one line each; empty when all is well. Reads every row."""
        from duality.index.remote.export import problems

        return problems(self.store, self.collection, self.name, self.ledger.read())

    def export(self, path: Path) -> int:
        """Write id, vector and attributes of all records as Parquet (or .npy); returns how many."""
        from duality.index.remote.export import export_side

        return export_side(self.store, self.collection, self.ledger.read(), path)

    def close(self) -> None:
        """Nothing of its own to close; `RemotePair.close` ends the connection."""

    def _rows(self, where: str | None, fields: Sequence[str], state: State) -> Sequence[Row]:
        return rows_where(self.store, self.collection, state, where, fields)

    def _values(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return np.ascontiguousarray(vectors_in(rows, self.dim)[:, : self.dim])

    def _need_writable(self) -> None:
        if not self.writable:
            raise InputError(f'{self.collection} is open for reading: open it with mode="w"')


def _full(
    ids: Sequence[str], vectors: NDArray[np.float32] | None, held: Mapping[str, Row], state: State
) -> NDArray[np.float32]:
    """Vectors to store, float32 [N, D + 1]: those that came, or those that are there."""
    if vectors is not None:
        return extended(vectors, state.longest)
    for row, id in enumerate(ids, 1):
        if id not in held:
            raise DataError(f"id {id} is not stored and has no vector", row=row)
    return vectors_in([held[id] for id in ids], state.dim)
