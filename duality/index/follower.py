"""The search structure that follows a record store: loaded, caught up, rebuilt when that pays.

Reads:  the snapshot once, then the records of later commits.
Cost:   opening reads the snapshot; each commit since costs its own rows only.

Call inside the store's `reading()`, so that structure and records are of one commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.errors import DamageError
from duality.index.store import RecordStore
from duality.runtime import say

if TYPE_CHECKING:
    from duality.index.structure import Structure


class Follower:
    """One side's structure in memory.

    Args:
        store: the records.
        folder: where the snapshot is.
        name: "users" or "items".
        options: `IndexSpec.options()`, for a rebuild.
    """

    def __init__(self, store: RecordStore, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        self.store, self.folder, self.name, self.options = store, folder, name, options
        self._structure: Structure | None = None
        self._seq = -1

    def current(self) -> Structure:
        """The structure at the commit that the caller's transaction sees."""
        if self._structure is None:
            self._load()
        if self._structure is None or self._seq < self.store.meta("floor"):
            self._rebuild()
        elif self._seq < self.store.meta("seq"):
            self._catch_up(self._structure)
        assert self._structure is not None
        return self._structure

    def write(self, *, rebuild: bool = False) -> None:
        """Make the current structure the snapshot; with `rebuild`, after building it anew."""
        from duality.index.snapshot import write_snapshot

        if rebuild:
            self._rebuild()
        structure = self.current()
        write_snapshot(self.folder, self.name, self._seq, structure)

    def lag(self) -> int:
        """Vectors that changed or went since the snapshot on disk."""
        from duality.index.snapshot import snapshot_seq

        return self.store.changes(snapshot_seq(self.folder, self.name))

    def _load(self) -> None:
        from duality.index.snapshot import read_snapshot

        try:
            found = read_snapshot(self.folder, self.name)
        except DamageError as error:
            say(f"warning: {error}; using the records instead")
            return
        # A snapshot of a commit that the store does not have belongs to another store.
        if found and found[0] <= self.store.meta("seq"):
            self._seq, self._structure = found

    def _catch_up(self, structure: Structure) -> None:
        # Half-applied changes must not pass for a commit if this is interrupted.
        self._structure = None
        structure.remove(self.store.removed(self._seq))
        for keys, vectors in self.store.changed(self._seq):
            structure.add(keys, vectors)
        if structure.stale:
            self._rebuild()
        else:
            self._structure, self._seq = structure, self.store.meta("seq")

    def _rebuild(self) -> None:
        from duality.index.ann import build_structure

        blocks = list(self.store.changed(0))
        keys = np.concatenate([keys for keys, _ in blocks] or [np.empty(0, np.int64)])
        empty = np.empty((0, self.store.dim), np.float32)
        vectors = np.concatenate([block for _, block in blocks] or [empty])
        self._structure = build_structure(self.options, keys, vectors)
        self._seq = self.store.meta("seq")
