"""A new generation on a server: two collections, filled and loaded, then made current in one step.

Until index.json is replaced nothing has changed for readers; when the build fails before that, its
collections are dropped. Collections that a killed build left behind go with the next build.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.artifacts import write_json
from duality.errors import DataError, DualityError, InputError
from duality.index.attributes import Column, columns_from
from duality.index.batches import check_ids, check_vectors
from duality.index.remote import schema
from duality.index.remote.connection import TIMEOUT, Store, check_url
from duality.index.remote.ledger import Ledger, State
from duality.index.remote.manifest import MARKER, generations, new_manifest, replaceable
from duality.index.remote.rows import build_rows, calls, extended, longest_of, merged
from duality.runtime import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.index.spec import IndexSpec

SIDES = ("users", "items")
# Rows that are in memory as the server's rows at a time.
_ROWS = 20_000


@dataclass(frozen=True)
class _Batch:
    """One side's rows, checked; `model` is the fingerprint that the source records."""

    file: str
    model: str | None
    ids: list[str]
    vectors: NDArray[np.float32]
    columns: Mapping[str, Column]


def build(
    folder: Path,
    url: str,
    tables: Mapping[str, pa.Table | str | Path],
    spec: IndexSpec,
    manifest_extra: Mapping[str, Any] | None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Build both sides on a server and make them current; returns users, items (counts) and dim.

    Args:
        folder: where index.json goes; the caller holds its writer's lock.
        url: the server.
        tables: by side, an embedding table or its Parquet file (transfer.py).
        spec: an index recipe.
        manifest_extra: `model`, `dataset` and whatever else the manifest shall hold.
        timeout: of each call, seconds.

    Raises:
        DataError: a row does not fit; nothing has changed.
        DualityError: the server does not answer or refuses; nothing has changed.
    """
    batches = {side: _checked(tables[side], side) for side in SIDES}
    dims = {side: batch.vectors.shape[1] for side, batch in batches.items()}
    if dims["users"] != dims["items"]:
        raise DataError(f"user vectors have {dims['users']} values, item vectors {dims['items']}")
    extra = {**(manifest_extra or {})}
    extra["model"] = extra.get("model") or _recorded_model(batches)
    old = replaceable(folder, check_url(url))
    store = Store(url, timeout)
    try:
        name = old["name"] if old else schema.store_name(folder.resolve().name, uuid.uuid4().hex[:8])
        generation = f"g{datetime.now(UTC):%Y%m%d%H%M%S}{uuid.uuid4().hex[:4]}"
        _sweep(store, name, generations(old) if old else [])
        try:
            _fill(store, name, generation, batches, spec.options())
            manifest = new_manifest(
                old,
                store=store.url,
                name=name,
                generation=generation,
                dim=dims["users"],
                options=spec.options(),
                extra=extra,
            )
            write_json(folder / MARKER, manifest)
        except BaseException:
            # The server may be the reason; its leavings then go with the next build.
            with suppress(DualityError):
                _sweep(store, name, generations(old) if old else [])
            raise
        point(store, manifest)
        _sweep(store, name, generations(manifest))
        return {**{side: len(batch.ids) for side, batch in batches.items()}, "dim": dims["users"]}
    finally:
        store.close()


def _checked(source: pa.Table | str | Path, side: str) -> _Batch:
    from duality.index.transfer import ids_of, read_embeddings, recorded_model, vectors_of

    file = str(source) if isinstance(source, str | Path) else side
    table = read_embeddings(Path(source)) if isinstance(source, str | Path) else source
    vectors = vectors_of(table, file)
    if vectors is None or vectors.shape[1] == 0:
        raise DataError("no column vector of at least one value", file=file)
    try:
        ids = check_ids(ids_of(table, file))
        checked = check_vectors(vectors, vectors.shape[1], rows=len(ids))
        columns = columns_from(table, len(ids))
    except DataError as error:
        raise DataError(error.what, file=file, row=error.row, column=error.column) from None
    return _Batch(file, recorded_model(table.schema), ids, checked, columns)


def _recorded_model(batches: Mapping[str, _Batch]) -> dict[str, Any] | None:
    """The model that the sources say their vectors are of."""
    models = {batch.model for batch in batches.values() if batch.model}
    if len(models) > 1:
        raise InputError(f"user and item vectors are of different models: {' and '.join(sorted(models))}")
    return {"fingerprint": models.pop()} if models else None


def _fill(
    store: Store, name: str, generation: str, batches: Mapping[str, _Batch], options: Mapping[str, Any]
) -> None:
    ledger = schema.ledger_name(name)
    if ledger not in store.collections():
        store.create(ledger, schema.ledger_layout())
        store.serve(ledger, schema.ledger_layout())
    for side, batch in batches.items():
        rows, dim = len(batch.ids), batch.vectors.shape[1]
        structure = schema.structure_of(options, rows)
        layout = schema.record_layout(dim, structure)
        collection = schema.collection_name(name, generation, side)
        store.create(collection, layout)
        state = State(dim=dim, longest=longest_of(batch.vectors), structure=structure, count=rows)
        state = state.with_columns(batch.columns)
        try:
            _send(store, collection, batch, state)
        except DataError as error:
            raise DataError(error.what, file=batch.file, row=error.row, column=error.column) from None
        store.serve(collection, layout)
        _expect(store, collection, rows)
        Ledger(store, ledger, generation, side).write(replace(state, version=1))


def _send(store: Store, collection: str, batch: _Batch, state: State) -> None:
    with progress(len(batch.ids), f"sending {collection}") as bar:
        for start in range(0, len(batch.ids), _ROWS):
            part = slice(start, start + _ROWS)
            ids, vectors = batch.ids[part], extended(batch.vectors[part], state.longest)
            columns = {name: Column(held.kind, held.values[part]) for name, held in batch.columns.items()}
            attributes = merged(ids, {}, columns, state.slots())
            for portion in calls(build_rows(ids, vectors, attributes, start + 1), state.dim):
                store.upsert(collection, portion)
                bar.advance(len(portion))


def _expect(store: Store, collection: str, rows: int) -> None:
    found = store.count(collection)
    if found != rows:
        raise DualityError(f"the store {store.url} holds {found:,} of {rows:,} rows sent to {collection}")


def point(store: Store, manifest: Mapping[str, Any]) -> None:
    """Let the aliases name the current generation."""
    for side in SIDES:
        alias = schema.alias_name(manifest["name"], side)
        store.point(alias, schema.collection_name(manifest["name"], manifest["current"], side))


def _sweep(store: Store, name: str, kept: Sequence[str]) -> None:
    """Drop the collections of this index that belong to no kept generation; all of them for none."""
    wanted = {schema.collection_name(name, generation, side) for generation in kept for side in SIDES}
    ledger = schema.ledger_name(name)
    for collection in store.collections():
        if not collection.startswith(f"{name}_g") or collection in wanted:
            continue
        store.drop(collection)
        generation, side = collection.removeprefix(f"{name}_").rsplit("_", 1)
        if kept:
            Ledger(store, ledger, generation, side).drop()
    if not kept and ledger in store.collections():
        store.drop(ledger)
