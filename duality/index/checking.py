"""Does the stored data still say what was written? Records first, then the snapshot against them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duality.errors import DualityError
from duality.index.store import RecordStore, row_crc

# Enough to see the pattern; the rest is counted.
_SHOWN = 5


def problems(store: RecordStore, folder: Path, side: str) -> list[str]:
    """What is damaged on one side, one line each; empty when all is well.

    Checks SQLite's own structure, the checksum of every record, and that the snapshot's files
    match their checksums and hold the records' vectors.
    """
    try:
        found = [*_file(store, side), *_records(store, side)]
    except (sqlite3.DatabaseError, DualityError) as error:
        return [f"{side}: records cannot be read ({error}): build the index again"]
    return found or list(_snapshot(store, folder, side))


def _file(store: RecordStore, side: str) -> Iterator[str]:
    answer = store.one("PRAGMA quick_check(1)")
    if answer != "ok":
        yield f"{side}: {store.path.name} is damaged ({answer}): build the index again"


def _records(store: RecordStore, side: str) -> Iterator[str]:
    damaged = []
    for rows in store.raw_rows():
        for _, id, vector, crc, *values in rows:
            if len(vector) != 4 * store.dim or row_crc(id, vector, values) != crc:
                damaged.append(id)
        block = np.frombuffer(b"".join(row[2] for row in rows if len(row[2]) == 4 * store.dim), "<f4")
        if not np.isfinite(block).all():
            yield f"{side}: a stored vector is not finite"
    if damaged:
        shown = ", ".join(damaged[:_SHOWN]) + (", …" if len(damaged) > _SHOWN else "")
        yield f"{side}: {len(damaged)} damaged records ({shown}): upsert or delete them"


def _snapshot(store: RecordStore, folder: Path, side: str) -> Iterator[str]:
    from duality.index.snapshot import read_snapshot

    mend = "run `duality index compact`"
    try:
        found = read_snapshot(folder, side)
    except (DualityError, KeyError, ValueError, TypeError) as error:
        yield f"{side}: snapshot cannot be used ({error}): {mend}"
        return
    if found is None:
        yield f"{side}: no snapshot: {mend}"
        return
    seq, structure = found
    if seq > store.meta("seq"):
        yield f"{side}: snapshot of commit {seq}, the records are at {store.meta('seq')}: {mend}"
        return
    if seq < store.meta("floor"):
        yield f"{side}: snapshot of commit {seq} is older than the last compaction: {mend}"
        return
    structure.remove(store.removed(seq))
    for keys, vectors in store.changed(seq):
        structure.add(keys, vectors)
    blocks = 0
    for keys, vectors in store.changed(0):
        blocks += len(keys)
        held = np.isin(keys, structure.keys())
        if not held.all() or not np.array_equal(structure.vectors_of(keys), vectors):
            yield f"{side}: snapshot and records differ: {mend}"
            return
    if blocks != structure.count:
        yield f"{side}: snapshot holds {structure.count} vectors, the records {blocks}: {mend}"
