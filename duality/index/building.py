"""Building a generation: records streamed in, search structures built, then one switch.

Reads:  tables or Parquet files of embeddings, batch by batch.
Writes: `generations/building-<token>/`, renamed when it is whole. A build from files that was
        interrupted goes on where it stopped when it is started again with the same files.
Cost:   memory for one batch of rows, and what the structure needs.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.artifacts import fingerprint
from duality.errors import DataError, InputError
from duality.index.attributes import columns_from
from duality.index.batches import check_ids, check_vectors
from duality.index.database import damage
from duality.index.documents import write_document
from duality.index.generations import MANIFEST, ROOT, switch
from duality.index.head import reset_head
from duality.index.lock import WriterLock
from duality.index.reads import RecordReads
from duality.index.rebuilding import rebuild
from duality.index.seal import seal
from duality.index.store import RecordStore
from duality.index.transfer import Source, ids_of, vectors_of
from duality.runtime import progress, say

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.index.spec import IndexSpec

SIDES = ("users", "items")
# Vectors of the other side with which search settings are measured: users ask items, and back.
ASKING = 128


def build(
    path: str | Path,
    users: pa.Table | str | Path,
    items: pa.Table | str | Path,
    *,
    spec: IndexSpec | str | Path | None = None,
    manifest_extra: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Build an index of both sides beside the one at `path`, which serves until the new one is whole.

    Args:
        path: the index folder.
        users: columns `id` string and `vector` lists of float32, others become attributes; or a
            Parquet file of that format.
        items: the same.
        spec: an IndexSpec, its name or its TOML file; exact by default.
        manifest_extra: `model` and `dataset` descriptions and whatever else the manifest shall hold.
        device: "cuda" trains and assigns on the GPU.

    Returns:
        users, items (counts), dim, kind, version.

    Raises:
        DataError: a row does not fit; nothing at `path` has changed.
        InputError: the vectors of the sides are of different models or lengths.
        DualityError: another process writes the index at `path`.
    """
    from duality.index.spec import load_spec

    path, chosen = Path(path), load_spec(spec)
    sources = {"users": Source.of(users, "users"), "items": Source.of(items, "items")}
    extra = dict(manifest_extra or {})
    manifest = {
        "spec": chosen.model_dump(),
        "options": chosen.options(),
        "dim": _common(sources, "dim"),
        "model": extra.pop("model", None) or _recorded_model(sources),
        "dataset": extra.pop("dataset", None),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "extra": extra,
    }
    with _place(path, sources, manifest) as folder:
        for side in SIDES:
            _store(folder, side, sources[side])
        counts = {side: _finish(folder, side, sources[side], manifest, device) for side in SIDES}
        write_document(folder / MANIFEST, manifest)
        switch(path, folder)
    return {**counts, "dim": manifest["dim"], "kind": chosen.kind, "version": 1}


def _common(sources: Mapping[str, Source], what: str) -> Any:
    users, items = (getattr(sources[side], what) for side in SIDES)
    if users != items:
        raise DataError(f"user vectors have {users} values, item vectors {items}")
    return users


def _recorded_model(sources: Mapping[str, Source]) -> dict[str, Any] | None:
    """The model that the files say their vectors are of."""
    models = {source.model for source in sources.values() if source.model}
    if len(models) > 1:
        raise InputError(f"user and item vectors are of different models: {' and '.join(sorted(models))}")
    return {"fingerprint": models.pop()} if models else None


@contextmanager
def _place(path: Path, sources: Mapping[str, Source], manifest: Mapping[str, Any]) -> Iterator[Path]:
    """The folder to build in, under the writer's lock; kept after an interruption if it can be resumed."""
    ours = (path / ROOT).exists() or (path / "generations").is_dir()
    if path.exists() and not ours and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is no index: choose another folder or move it away")
    homes = path / "generations"
    first = not homes.exists()
    homes.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(path)
    stamps = [source.stamp for source in sources.values()]
    resumable = all(stamps)
    token = fingerprint(*map(str, stamps), str(manifest["options"])) if resumable else uuid.uuid4().hex[:16]
    folder = homes / f"building-{token}"
    try:
        for other in homes.glob("building-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        yield folder
    except BaseException as error:
        if not resumable or isinstance(error, InputError):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.release()
        if first and not (path / ROOT).exists() and not any(homes.iterdir()):
            shutil.rmtree(path, ignore_errors=True)


def _store(folder: Path, name: str, source: Source) -> None:
    """Load the records of one side, or what is left to load."""
    database = folder / f"{name}.sqlite"
    if (folder / f"{name}.seal").exists():
        return
    store = _started(database, source.dim)
    try:
        with damage(database):
            _load(store, source, name)
            store.index_ids()
    except DataError as error:
        raise DataError(error.what, file=source.file, row=error.row, column=error.column) from None
    finally:
        store.close()


def _finish(folder: Path, name: str, source: Source, manifest: Mapping[str, Any], device: str | None) -> int:
    """Structure, head and seal of one side whose records are loaded; how many records."""
    if (folder / f"{name}.seal").exists():
        return source.rows
    store = RecordStore.open(folder / f"{name}.sqlite", writable=True)
    try:
        with damage(store.path):
            queries = sample_of(folder, "users" if name == "items" else "items")
            finish_side(store, folder, name, manifest["options"], queries=queries, device=device)
            return store.count()
    finally:
        store.close()


def sample_of(folder: Path, name: str) -> NDArray[np.float32]:
    """Vectors of one side, float32 [S, dim], as a sample of what the other side will be asked.

    On a connection of its own: a side that is being loaded must not wait for the other's lock. Empty
    when the folder is gone: a reader may stand on a generation that a writer has dropped.
    """
    try:
        reads = RecordReads.open(folder / f"{name}.sqlite", writable=False)
    except InputError:
        return np.empty((0, 0), np.float32)
    try:
        with reads.reading():
            return reads.sample(ASKING)
    finally:
        reads.close()


def finish_side(
    store: RecordStore,
    folder: Path,
    name: str,
    options: Mapping[str, Any],
    *,
    queries: NDArray[np.float32] | None = None,
    device: str | None = None,
) -> None:
    """Index the ids, build the structure, write the head and the seal of a side that was loaded in bulk.

    Raises:
        DataError: an id came twice.
    """
    store.index_ids()
    reset_head(folder / f"{name}.head", store.head())
    rebuild(store.path, folder, name, options, queries=queries, device=device)
    store.fold_log(10.0)
    seal(store.path, store.head())


def _started(database: Path, dim: int) -> RecordStore:
    if database.exists():
        store = RecordStore.open(database, writable=True)
        if store.dim == dim:
            say(f"going on with an interrupted build: {store.count():,} {database.stem} are stored")
            return store
        store.close()
        database.unlink()
    return RecordStore.create(database, dim)


def _load(store: RecordStore, source: Source, name: str) -> None:
    done = store.count()
    with progress(source.rows, f"storing {name}") as shown:
        shown.advance(done)
        for start, table in source.batches(done):
            try:
                ids = check_ids(ids_of(table, source.file))
                vectors = vectors_of(table, source.file)
                if vectors is None:
                    raise DataError("no column vector", file=source.file)
                vectors = check_vectors(vectors, store.dim, rows=len(ids))
                columns = columns_from(table, len(ids))
                with store.loading() as commit:
                    store.insert(ids, vectors, columns, commit)
            except DataError as error:
                row = None if error.row is None else error.row + start
                raise DataError(error.what, row=row, column=error.column) from None
            shown.advance(len(ids))
        if not done and not source.rows:
            with store.loading():
                pass
