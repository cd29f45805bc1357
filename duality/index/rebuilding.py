"""A search structure built anew from the records, beside the one that serves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.names import Names
from duality.index.reads import RecordReads
from duality.index.snapshot import Snapshot, read_snapshot, write_snapshot
from duality.runtime import progress

# Vectors beyond this stay in a file while the structure is built.
_IN_MEMORY = 1 << 30


def build_from_records(
    reads: RecordReads,
    options: Mapping[str, Any],
    *,
    queries: NDArray[np.float32] | None = None,
    device: str | None = None,
    alive: Callable[[], None] | None = None,
) -> Snapshot:
    """Structure and names of the commit that the caller's transaction sees.

    Args:
        reads: the records, inside `reading()`.
        options: options of the index spec.
        queries: float32 [S, dim], of the kind that will be asked, if known.
        device: "cuda" to train and assign there; None for the CPU.
        alive: called now and then, and raises to give up; None shows progress instead.

    Raises:
        DamageError: a record is damaged.
    """
    from duality.index.structures.build import build_structure

    count, head = reads.count(), reads.head()
    keys, vectors = np.empty(count, np.int64), _room(reads.path.parent, count, reads.dim)
    names = Names.collect(_fill(reads, keys, vectors, alive or (lambda: None)))
    if alive is not None:
        structure = build_structure(
            options, keys, vectors, queries=queries, device=device, progress=lambda rows: alive()
        )
    else:
        with progress(count, f"building {reads.path.stem}") as shown:
            structure = build_structure(
                options, keys, vectors, queries=queries, device=device, progress=shown.advance
            )
    return Snapshot(head, structure, names, reads.deleted())


def rebuild(
    database: Path,
    folder: Path,
    name: str,
    options: Mapping[str, Any],
    *,
    queries: NDArray[np.float32] | None = None,
    device: str | None = None,
    alive: Callable[[], None] | None = None,
) -> Snapshot:
    """Build from the records as they are now and make that the snapshot on disk; reads on its own connection.

    Returns:
        The snapshot, memory-mapped from what was written.
    """
    reads = RecordReads.open(database, writable=False)
    try:
        with reads.reading():
            built = build_from_records(reads, options, queries=queries, device=device, alive=alive)
    finally:
        reads.close()
    write_snapshot(folder, name, built)
    written = read_snapshot(folder, name)
    assert written is not None
    return written


def _room(folder: Path, count: int, dim: int) -> NDArray[np.float32]:
    if 4 * count * dim <= _IN_MEMORY:
        return np.empty((count, dim), np.float32)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".vectors-") as file:
        # The mapping keeps the file's space until it is dropped; the name is gone at once.
        return np.memmap(file.name, np.float32, "w+", shape=(count, dim))


def _fill(
    reads: RecordReads, keys: NDArray[np.int64], vectors: NDArray[np.float32], alive: Callable[[], None]
) -> Iterator[tuple[list[int], list[str]]]:
    start = 0
    for rows in reads.all_rows():
        alive()
        end = start + len(rows)
        keys[start:end] = [key for key, *_ in rows]
        vectors[start:end] = reads.matrix([vector for _, _, vector, _ in rows])
        yield [key for key, *_ in rows], [id for _, id, _, _ in rows]
        start = end
