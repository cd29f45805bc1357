"""Durable vector store of one side: an acknowledged write survives a crash.

Reads:  embedding rows, float32 [N, D], finite.
Writes: the record store (one transaction per call). The search structure follows from it: it is
        loaded from its snapshot when first needed and caught up with later commits (follower.py).
Cost:   one fsync per call; batch your upserts.
Not here: structure settings (spec.py), two sides together (pair.py), what to exclude (retrieval/).

Shapes: N vectors, Q queries, k results per query, D dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DataError, InputError
from duality.index.attributes import columns_from
from duality.index.batches import check_ids, check_vectors
from duality.index.follower import Follower
from duality.index.store import RecordStore

if TYPE_CHECKING:
    import pyarrow as pa

# A snapshot this far behind (share of the side, or rows) is written anew when a writer closes.
LAG_SHARE, LAG_ROWS = 0.1, 1_000


class Side:
    """Users or items of an index; made by `pair.Pair`. Methods may be called from several threads.

    Args:
        folder: the index folder.
        name: "users" or "items".
        options: `IndexSpec.options()`.
        writable: whether the caller holds the writer's lock.
    """

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any], *, writable: bool) -> None:
        self.folder, self.name, self.options, self.writable = folder, name, dict(options), writable
        self.store = RecordStore.open(folder / f"{name}.sqlite", writable=writable)
        self._lock = threading.RLock()
        self._follower = Follower(self.store, folder, name, self.options)
        self._wrote = False

    @property
    def dim(self) -> int:
        """D."""
        return self.store.dim

    @property
    def kind(self) -> str:
        """exact, ivf or hnsw."""
        return self.options["kind"]

    @property
    def count(self) -> int:
        """Stored records."""
        with self._lock:
            return self.store.count()

    @property
    def version(self) -> int:
        """Number of commits so far."""
        with self._lock:
            return self.store.meta("seq")

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute name to kind."""
        with self._lock:
            return self.store.kinds()

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32] | None = None,
        attributes: pa.Table | None = None,
    ) -> int:
        """Insert records, or replace those whose id is stored; durable on return.

        Args:
            ids: N different ids.
            vectors: float32 [N, dim]; None changes only attributes of stored records.
            attributes: N rows; columns that it lacks keep their values.

        Returns:
            N.

        Raises:
            DataError: a row does not fit; the message names the first, and nothing is written.
        """
        self._need_writable()
        ids = check_ids(ids)
        vectors = None if vectors is None else check_vectors(vectors, self.dim, rows=len(ids))
        columns = columns_from(attributes, len(ids))
        if not ids:
            return 0
        with self._lock, self.store.writing() as seq:
            held = self.store.keys_of(ids)
            new = [row for row, id in enumerate(ids) if id not in held]
            if new and vectors is None:
                raise DataError(f"id {ids[new[0]]} is not stored and has no vector", row=new[0] + 1)
            old = sorted((row for row, id in enumerate(ids) if id in held), key=lambda row: held[ids[row]])
            taken = {name: column.take(old) for name, column in columns.items()}
            self.store.update([held[ids[row]] for row in old], _rows(vectors, old), taken, seq)
            if new and vectors is not None:
                fresh = {name: column.take(new) for name, column in columns.items()}
                self.store.insert([ids[row] for row in new], vectors[new], fresh, seq)
        self._wrote = True
        return len(ids)

    def delete(self, ids: Iterable[str] | None = None, where: str | None = None) -> tuple[int, list[str]]:
        """Remove records by id or by filter; durable on return.

        Returns:
            How many were removed, and the given ids that were not stored.
        """
        self._need_writable()
        if (ids is None) == (where is None):
            raise InputError("delete takes either ids or a filter")
        asked = list(dict.fromkeys(ids or []))
        with self._lock:
            with self.store.reading():
                held = self.store.keys_of(asked)
                keys = sorted(held.values()) if where is None else self.store.keys_where(where).tolist()
            if keys:
                with self.store.writing() as seq:
                    self.store.remove(keys, seq)
                self._wrote = True
        return len(keys), [id for id in asked if id not in held]

    def get(self, ids: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """Records {id, vector float32 [D], attributes} in the order asked, and ids not stored."""
        asked = list(dict.fromkeys(ids))
        with self._lock, self.store.reading():
            held = {record["id"]: record for record in self.store.records(ids=asked)}
        return [held[id] for id in asked if id in held], [id for id in asked if id not in held]

    def attributes_of(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Attributes by id, of those ids that are stored; cheaper than `get`."""
        with self._lock, self.store.reading():
            return self.store.attributes_of(dict.fromkeys(ids))

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 [N, D] in the order of `ids`.

        Raises:
            UnknownIdError: an id is not stored; near ones are suggested.
        """
        with self._lock, self.store.reading():
            return self.store.vectors(ids)

    def matching(self, where: str | None = None) -> tuple[list[str], NDArray[np.float32]]:
        """Ids and vectors float32 [N, D] of all records that match a filter, in id order."""
        records = self.list(where)
        vectors = [record["vector"] for record in records]
        return [record["id"] for record in records], np.array(vectors, np.float32).reshape(-1, self.dim)

    def list(
        self, where: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Records in id order that match a filter; `after` an id continues a listing."""
        if limit is not None and limit < 0:
            raise InputError(f"limit {limit}: give 0 or more")
        with self._lock, self.store.reading():
            return self.store.records(where=where, limit=-1 if limit is None else limit, after=after or "")

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[Sequence[str]] | None = None,
        exact: bool = False,
    ) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        """Records with the largest inner products.

        Args:
            vectors: float32 [Q, D].
            k: results per query.
            where: filter over attributes and `id`.
            exclude: per query, ids that must not be returned; unknown ones are ignored.
            exact: score every candidate instead of using the structure.

        Returns:
            ids object [Q, k] of str and scores float32 [Q, k], best first. None and -inf pad a
            row when fewer than k records match.
        """
        from duality.index.searching import MAX_K, named, search_blocks

        queries = check_vectors(vectors, self.dim)
        if not 1 <= k <= MAX_K:
            raise InputError(f"k {k}: give 1 to {MAX_K:,}")
        if exclude is not None and len(exclude) != len(queries):
            raise InputError(f"{len(exclude)} lists of excluded ids for {len(queries)} queries")
        with self._lock, self.store.reading():
            allowed = None if where is None else self.store.keys_where(where)
            scores, keys = search_blocks(
                self._follower.current(),
                queries,
                k,
                allowed=allowed,
                excluded=self._excluded(exclude),
                exact=exact,
            )
            names = self.store.ids_of(np.unique(keys).tolist())
        return named(keys, names), scores

    def _excluded(self, exclude: Sequence[Sequence[str]] | None) -> Sequence[NDArray[np.int64]] | None:
        if exclude is None:
            return None
        held = self.store.keys_of({id for row in exclude for id in row})
        return [np.array([held[id] for id in set(row) if id in held], np.int64) for row in exclude]

    def snapshot(self, *, rebuild: bool = False) -> None:
        """Write the structure beside the records so that the next opening loads it."""
        self._need_writable()
        with self._lock, self.store.reading():
            self._follower.write(rebuild=rebuild)

    def compact(self) -> None:
        """Give back the space of removed records and rebuild the structure."""
        self._need_writable()
        with self._lock:
            self.store.compact()
            self.snapshot(rebuild=True)

    def stats(self) -> dict[str, Any]:
        """count, deleted, dim, kind, version, bytes on disk, attributes."""
        with self._lock, self.store.reading():
            size = sum(path.stat().st_size for path in self.folder.glob(f"{self.name}.*"))
            return {
                "count": self.store.count(),
                "deleted": self.store.deleted(),
                "dim": self.dim,
                "kind": self.kind,
                "version": self.store.meta("seq"),
                "bytes": size,
                "attributes": self.store.kinds(),
            }

    def verify(self) -> Sequence[str]:
        """What is damaged, one line each; empty when all is well."""
        from duality.index.checking import problems

        with self._lock, self.store.reading():
            return problems(self.store, self.folder, self.name)

    def export(self, path: Path) -> int:
        """Write id, vector and attributes of all records as Parquet; returns how many."""
        from duality.index.transfer import export_side

        with self._lock, self.store.reading():
            return export_side(self.store, path)

    def close(self) -> None:
        """Close; a writer leaves a fresh snapshot when the old one has fallen far behind."""
        with self._lock:
            if self._wrote and self._follower.lag() > max(LAG_ROWS, LAG_SHARE * self.store.count()):
                self.snapshot()
            self.store.close()

    def _need_writable(self) -> None:
        if not self.writable:
            raise InputError(f'{self.folder} is open for reading: open it with mode="w"')


def _rows(vectors: NDArray[np.float32] | None, rows: Sequence[int]) -> NDArray[np.float32] | None:
    return None if vectors is None else vectors[np.asarray(rows, np.int64)]
