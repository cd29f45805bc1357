"""Does the stored data still say what was written? Records first, then the snapshot against them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duality.errors import DamageError, DualityError
from duality.index.head import ADVICE, read_head
from duality.index.reads import RecordReads, intact
from duality.index.snapshot import MEND
from duality.runtime import progress

# Enough to see the pattern; the rest is counted.
_SHOWN = 5


def side_problems(store: RecordReads, folder: Path, side: str) -> list[str]:
    """What is damaged on one open side, one line each; empty when all is well."""
    try:
        _, torn = read_head(folder / f"{side}.head")
        found = [*torn, *(f"{side}: {problem}: {ADVICE}" for problem in content_problems(store))]
    except (sqlite3.DatabaseError, DualityError) as error:
        return [f"{side}: records cannot be read ({error})"]
    return found or list(_snapshot(store, folder, side))


def content_problems(store: RecordReads) -> list[str]:
    """What is wrong with the records, without advice: SQLite's structure, every record, their sum."""
    try:
        return list(_content(store))
    except (sqlite3.DatabaseError, DamageError) as error:
        return [f"records cannot be read ({error})"]


def _content(store: RecordReads) -> Iterator[str]:
    broken = store.structure_problem()
    if broken:
        yield f"{store.path.name} is damaged ({broken})"
        return
    last = store.last()
    store.commits_after(store.oldest())
    damaged, found, state = [], 0, 0
    with progress(last.facts["count"], f"checking {store.path.stem}") as shown:
        for rows in store.stored_digests():
            for key, id, vector, digest, *values in rows:
                if not intact(key, id, vector, digest, values) or len(vector) != 4 * store.dim:
                    damaged.append(str(id))
                else:
                    state += digest
            found += len(rows)
            shown.advance(len(rows))
    if damaged:
        names = ", ".join(damaged[:_SHOWN]) + (", …" if len(damaged) > _SHOWN else "")
        yield f"{len(damaged)} damaged records ({names})"
    elif found != last.facts["count"]:
        yield f"{found} records instead of {last.facts['count']}"
    elif state % (1 << 64) != last.state:
        yield "the records do not add up to the last commit"


def _snapshot(store: RecordReads, folder: Path, side: str) -> Iterator[str]:
    from duality.index.snapshot import read_snapshot

    try:
        found = read_snapshot(folder, side)
    except DamageError as error:
        yield f"{side}: {error}"
        return
    if found is None:
        return
    if found.head.seq > store.last().seq or store.chain_of(found.head.seq) not in (None, found.head.chain):
        yield f"{side}: the snapshot is of other records: {MEND}"
        return
    try:
        commits = store.commits_after(found.head.seq)
    except KeyError:
        return
    structure = found.structure
    changed = np.unique(np.concatenate([np.empty(0, np.int64), *(c.changed for c in commits)]))
    removed = np.concatenate([np.empty(0, np.int64), *(c.removed for c in commits)])
    held = 0
    for rows in store.all_rows():
        keys = np.array([key for key, *_ in rows], np.int64)
        same = ~np.isin(keys, changed)
        vectors = store.matrix([vector for _, _, vector, _ in rows])
        try:
            agree = np.array_equal(structure.vectors_of(keys[same]), vectors[same])
        except KeyError:
            agree = False
        if not agree:
            yield f"{side}: snapshot and records differ: {MEND}"
            return
        held += int(same.sum())
    stale = np.isin(structure.keys(), np.concatenate([changed, removed]))
    if structure.count - int(stale.sum()) != held:
        yield f"{side}: the snapshot holds records that were removed: {MEND}"
