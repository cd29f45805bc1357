"""Durable vector store of one side: an acknowledged write survives a crash.

Reads:  embedding rows, float32 [N, D], finite.
Writes: the records (one commit per call, writer.py). The search structure follows from them: it is
        loaded from its snapshot when first needed and caught up with later commits (live.py).
Cost:   two syncs per call; batch your upserts.
Not here: index structures (structures/), two sides together (pair.py), what to exclude (retrieval/).

Shapes: N vectors, Q queries, k results per query, D dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import InputError
from duality.index.attributes import columns_from
from duality.index.batches import check_ids, check_vectors
from duality.index.live import Live
from duality.index.opening import open_store
from duality.index.reads import RecordReads
from duality.index.upkeep import Upkeep
from duality.index.writer import Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.index.structures.plan import Plan
    from duality.index.structures.tuning import Tuned


class Side:
    """Users or items of an index; made by `pair.Pair`. Methods may be called from several threads.

    Args:
        folder: the folder of the generation.
        name: "users" or "items".
        options: options of the index spec.
        writable: whether the caller holds the writer's lock.
        written: whether another process holds it.
        asking: gives a sample of the vectors that will be asked here (those of the other side).
        elsewhere: erases ids from the copies of this side in other generations and in snapshots.
        model: fingerprint of the model whose vectors these are, if known.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        options: Mapping[str, Any],
        *,
        writable: bool,
        written: bool = False,
        model: str | None = None,
        asking: Callable[[], NDArray[np.float32]] | None = None,
        elsewhere: Callable[[list[str]], None] = lambda ids: None,
    ) -> None:
        self._erase_elsewhere = elsewhere
        self.folder, self.name, self.model, self.writable = folder, name, model, writable
        self.options = dict(options)
        opened = open_store(folder / f"{name}.sqlite", writable=writable, written=written)
        self._writer = Writer(opened) if writable else None
        self._reads_lock = threading.RLock()
        self._reads: RecordReads = (
            RecordReads.open(opened.store.path, writable=False) if writable else opened.store
        )
        self._live = Live(self._reads, self._reads_lock, folder, name, self.options, asking)
        self._upkeep = Upkeep(self._live, self._writer) if self._writer else None

    @property
    def dim(self) -> int:
        """D."""
        return self._reads.dim

    @property
    def kind(self) -> str:
        """exact, ivf, hnsw, ivfpq, sq8 or rabitq."""
        return self.options["kind"]

    @property
    def count(self) -> int:
        """Stored records."""
        with self._reading() as reads:
            return reads.count()

    @property
    def version(self) -> int:
        """Number of commits so far."""
        with self._reading() as reads:
            return reads.newest()

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute name to kind."""
        with self._reading() as reads:
            return reads.kinds()

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32] | None = None,
        attributes: pa.Table | None = None,
        *,
        model: str | None = None,
    ) -> int:
        """Insert records, or replace those whose id is stored; durable on return.

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
            DualityError: the device failed; nothing was acknowledged.
        """
        writer, upkeep = self._need_writable()
        self.check_model(model)
        ids = check_ids(ids)
        vectors = None if vectors is None else check_vectors(vectors, self.dim, rows=len(ids))
        columns = columns_from(attributes, len(ids))
        if not ids:
            return 0
        with writer.lock:
            with writer.commit() as commit:
                keys = writer.store.upsert(ids, vectors, columns, commit)
            if vectors is not None:
                order = np.argsort(keys)
                self._live.applied(commit, dict(zip(keys.tolist(), ids)), keys[order], vectors[order])
            upkeep.after(commit)
        return len(ids)

    def delete(
        self, ids: Iterable[str] | None = None, where: str | None = None, *, erase: bool = False
    ) -> tuple[int, list[str]]:
        """Remove records by id or by filter; durable on return.

        Args:
            ids: what to remove; or
            where: a filter.
            erase: leave no byte of ids and vectors in any file of the index, other generations and
                snapshots included; writes these files anew. Ids that are not stored here are looked
                for there all the same.

        Returns:
            How many were removed, and the given ids that were not stored.

        Raises:
            DualityError: `erase`, and a reader holds the old bytes; all is deleted, run it again.
        """
        writer, upkeep = self._need_writable()
        if (ids is None) == (where is None):
            raise InputError("delete takes either ids or a filter")
        with writer.lock:
            with writer.store.reading():
                found = ids if ids is not None else writer.store.ids_where(where or "")
                asked = list(dict.fromkeys(found))
                held = writer.store.keys_of(asked)
            keys = list(held.values())
            if keys:
                with writer.commit() as commit:
                    writer.store.remove(keys, commit)
                none = np.empty(0, np.int64)
                self._live.applied(commit, {}, none, np.empty((0, self.dim), np.float32))
                upkeep.after(commit)
        if erase:
            self.compact(erase=True)
            self._erase_elsewhere(asked)
        return len(keys), [id for id in asked if id not in held]

    def get(self, ids: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """Records {id, vector float32 [D], attributes} in the order asked, and ids not stored."""
        asked = list(dict.fromkeys(ids))
        with self._reading() as reads:
            held = {record["id"]: record for record in reads.records(ids=asked)}
        return [held[id] for id in asked if id in held], [id for id in asked if id not in held]

    def attributes_of(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Attributes by id, of those ids that are stored."""
        with self._reading() as reads:
            return reads.attributes_of(dict.fromkeys(ids))

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 [N, D] in the order of `ids`.

        Raises:
            UnknownIdError: an id is not stored; near ones are suggested.
        """
        with self._reading() as reads:
            return reads.vectors(ids)

    def matching(self, where: str | None = None) -> tuple[list[str], NDArray[np.float32]]:
        """Ids and vectors float32 [N, D] of all records that match a filter, in id order."""
        records = self.list(where)
        vectors = [record["vector"] for record in records]
        return [record["id"] for record in records], np.array(vectors, np.float32).reshape(-1, self.dim)

    def blocks(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and vectors float32 [n, D] of all records, in id order, some at a time; all of one commit. Other reads
        wait until it is used up or closed."""
        with self._reading() as reads:
            yield from reads.vectors_in_order()

    def ids_where(self, where: str) -> Sequence[str]:
        """Ids of the records that match a filter; FilterError where it does not fit."""
        with self._reading() as reads:
            return reads.ids_where(where)

    def sample(self, rows: int) -> NDArray[np.float32]:
        """Up to `rows` stored vectors, float32 [N, D], spread over the side, the same at every call."""
        with self._reading() as reads:
            return reads.sample(rows)

    def list(
        self, where: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Records in id order that match a filter; `after` an id continues a listing."""
        if limit is not None and limit < 0:
            raise InputError(f"limit {limit}: give 0 or more")
        with self._reading() as reads:
            return reads.records(where=where, limit=-1 if limit is None else limit, after=after or "")

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
            device: "cuda" scores on the GPU, exactly; None stays on the CPU.

        Returns:
            ids object [Q, k] of str and scores float32 [Q, k], best first. None and -inf pad a
            row when fewer than k records match.
        """
        from duality.index.searching import MAX_K, search_blocks

        queries = check_vectors(vectors, self.dim)
        if not 1 <= k <= MAX_K:
            raise InputError(f"k {k}: give 1 to {MAX_K:,}")
        if exclude is not None and len(exclude) != len(queries):
            raise InputError(f"{len(exclude)} lists of excluded ids for {len(queries)} queries")
        if model is not None:
            self.check_model(model)
        excluded = None if exclude is None else self._excluded(exclude)
        while True:
            with self._live.searching() as structure:
                allowed = None if where is None else self._live.matching(where)
                if where is None or allowed is not None:
                    scores, keys = search_blocks(
                        structure, queries, k, allowed=allowed, excluded=excluded, exact=exact, device=device
                    )
                    return self._live.names.of(keys), scores

    def plan(self, k: int = 10, where: str | None = None, exact: bool = False) -> Plan:
        """How a search would be done, and why."""
        while True:
            with self._live.searching() as structure:
                allowed = None if where is None else self._live.matching(where)
                if where is None or allowed is not None:
                    matches = None if allowed is None else len(allowed)
                    return structure.plan(k, matches, exact=exact, allowed=allowed)

    def tune(self, queries: NDArray[np.float32], k: int, target: float) -> Tuned:
        """Measure search settings against exact search and use the cheapest that reaches `target` recall.

        Args:
            queries: float32 [Q, D], of the kind that will be asked.
            k: results per query.
            target: index_recall@k, 0 to 1.
        """
        from duality.index.structures.tuning import tune

        with self._live.searching() as structure:
            tuned = tune(structure, check_vectors(queries, self.dim), k, target)
            self.options["search"] = tuned.setting
            structure.use(tuned.setting)
        return tuned

    def snapshot(self) -> None:
        """Write the structure beside the records so that the next opening loads it."""
        _, upkeep = self._need_writable()
        upkeep.save()

    def compact(self, *, erase: bool = False, device: str | None = None) -> None:
        """Give back the space of removed records and build the structure anew.

        Args:
            erase: also insist that no byte of removed records stays in the files.
            device: "cuda" builds on the GPU.

        Raises:
            DualityError: `erase`, and a reader holds the log: nothing is lost, run it again later.
        """
        _, upkeep = self._need_writable()
        upkeep.compact(erase=erase, device=device)

    def stats(self) -> dict[str, Any]:
        """count, deleted, dim, kind, version, bytes on disk, attributes."""
        from duality.index.snapshot import snapshot_facts

        files = [path for path in self.folder.rglob("*") if path.is_file()]
        mine = [path for path in files if path.relative_to(self.folder).parts[0].startswith(f"{self.name}.")]
        with self._reading() as reads:
            return {
                "count": reads.count(),
                "deleted": reads.deleted() - snapshot_facts(self.folder, self.name)[1],
                "dim": self.dim,
                "kind": self.kind,
                "version": reads.newest(),
                "bytes": sum(path.stat().st_size for path in mine),
                "attributes": reads.kinds(),
            }

    def verify(self) -> Sequence[str]:
        """What is damaged, one line each; empty when all is well."""
        from duality.index.checking import side_problems

        with self._reading() as reads:
            return side_problems(reads, self.folder, self.name)

    def export(self, path: Path) -> int:
        """Write id, vector and attributes of all records as Parquet (or .npy); returns how many."""
        from duality.index.transfer import export_side

        with self._reading() as reads:
            return export_side(reads, path)

    def check_model(self, model: str | None) -> None:
        """Raise InputError when `model` is another than the one whose vectors are stored."""
        if model is not None and self.model is not None and model != self.model:
            raise InputError(
                f"vectors of model {model} do not belong into an index of model {self.model}: "
                "build an index for that model"
            )

    def copy_to(self, folder: Path) -> None:
        """Write a consistent copy of records and structure into another folder."""
        from duality.index.copying import copy_side

        with self._reads_lock:
            copy_side(self._reads, self.folder, self.name, folder)

    def close(self) -> None:
        """Close; a writer leaves a fresh snapshot when the old one has fallen far behind."""
        if self._upkeep:
            self._upkeep.close()
        self._live.close()
        with self._reads_lock:
            self._reads.close()
        if self._writer:
            self._writer.close()

    @contextmanager
    def _reading(self) -> Iterator[RecordReads]:
        with self._reads_lock:
            try:
                with self._reads.reading():
                    yield self._reads
            finally:
                self._live.looked += 1

    def _excluded(self, exclude: Sequence[Sequence[str]]) -> Sequence[NDArray[np.int64]]:
        with self._reading() as reads:
            held = reads.keys_of({id for row in exclude for id in row})
        return [np.array([held[id] for id in set(row) if id in held], np.int64) for row in exclude]

    def _need_writable(self) -> tuple[Writer, Upkeep]:
        if self._writer is None or self._upkeep is None:
            raise InputError(f'{self.folder} is open for reading: open it with mode="w"')
        return self._writer, self._upkeep
