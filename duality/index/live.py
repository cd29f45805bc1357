"""The search structure in memory that follows the records: loaded, caught up, replaced when rebuilt.

Reads:  the snapshot once, then the records of later commits.
Locks:  searches share `lock`; a change of the structure takes it alone, for one batch (or a part
        of one) at a time, and never while SQLite is at work. `_following` orders the changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DamageError
from duality.index.database import Commit
from duality.index.head import Acknowledged, Head
from duality.index.names import Names
from duality.index.reads import RecordReads
from duality.index.rwlock import SharedLock
from duality.index.snapshot import Snapshot, read_snapshot
from duality.runtime import say

if TYPE_CHECKING:
    from duality.index.structures.base import Structure

Keys = NDArray[np.int64]


class Live:
    """One side's structure.

    Args:
        reads: a connection of its own for reading; guarded by `reads_lock`.
        folder: where the snapshot is.
        name: "users" or "items".
        options: options of the index spec, for a rebuild.
        asking: gives a sample of the vectors that will be asked, float32 [S, dim], for a rebuild.
    """

    def __init__(
        self,
        reads: RecordReads,
        reads_lock: threading.RLock,
        folder: Path,
        name: str,
        options: Mapping[str, Any],
        asking: Callable[[], NDArray[np.float32]] | None = None,
    ) -> None:
        self.asking = asking or (lambda: np.empty((0, reads.dim), np.float32))
        self.reads, self.reads_lock = reads, reads_lock
        self.folder, self.name, self.options = folder, name, options
        self.lock = SharedLock()
        self.structure: Structure | None = None
        self.names = Names.collect([])
        self.seq = -1
        # The snapshot on disk was missing or damaged: a writer leaves a new one.
        self.homeless = False
        # The newest commit, in the process that makes them all; -1 elsewhere.
        self.made = -1
        self._following = threading.RLock()
        self._acknowledged = Acknowledged(folder / f"{name}.head")
        # How often records were read; then a search must not be older than what they showed.
        self.looked = 0
        self._seen = b"", -1
        self._filters: dict[str, tuple[int, Keys]] = {}

    @contextmanager
    def searching(self) -> Iterator[Structure]:
        """The structure at a commit not older than the newest when this began; searches may run in here."""
        while True:
            self.follow()
            with self.lock.shared:
                # A failed update of another thread leaves none; then follow() loads it again.
                if self.structure is not None:
                    yield self.structure
                    return

    def follow(self) -> None:
        """Bring the structure to the newest commit."""
        if self.made == self.seq and self.structure is not None:
            return
        # Records show a commit a moment before it is acknowledged: after a look at them only SQLite can tell.
        seen = self._acknowledged.bytes(), self.looked
        if self.structure is not None and seen[0] and seen == self._seen:
            return
        with self._following:
            with self.reads_lock, self.reads.reading():
                behind = self.structure is None or self.reads.newest() != self.seq
                update = self._update() if behind else None
            if update:
                self._apply(*update)
            self._seen = seen

    def applied(
        self, commit: Commit, ids: Mapping[int, str], keys: Keys, vectors: NDArray[np.float32]
    ) -> None:
        """Take over a commit that this process has just made, if the structure stands right before it."""
        with self._following:
            self.made = commit.seq
            if self.structure is not None and self.seq == commit.seq - 1:
                self._apply(commit.seq, ids, keys, vectors, commit.removed)

    def matching(self, where: str) -> Keys | None:
        """Keys that match a filter, ascending; None when the records are ahead of the structure.

        Call inside `searching()`.
        """
        cached = self._filters.get(where)
        if cached and cached[0] == self.seq:
            return cached[1]
        with self.reads_lock, self.reads.reading():
            if self.reads.newest() != self.seq:
                self.looked += 1
                return None
            keys = self.reads.keys_where(where)
        # Read-only: what a structure derives from the array is then good for the next search too.
        keys.flags.writeable = False
        if len(self._filters) >= 32:
            self._filters.clear()
        self._filters[where] = (self.seq, keys)
        return keys

    def close(self) -> None:
        """Give back what is open."""
        self._acknowledged.close()

    def adopt(self, snapshot: Snapshot) -> None:
        """Replace the structure by one that was built beside it, without keeping searches waiting."""
        new = Live(self.reads, self.reads_lock, self.folder, self.name, self.options)
        new.take(snapshot)
        new.follow()
        with self._following:
            new.follow()
            with self.lock.exclusive:
                self.structure, self.names, self.seq = new.structure, new.names, new.seq

    def take(self, snapshot: Snapshot) -> None:
        """Start from a snapshot, with the search setting of the options."""
        self.structure, self.names, self.seq = snapshot.structure, snapshot.names, snapshot.head.seq
        if "search" in self.options:
            snapshot.structure.use(self.options["search"])

    def pack(self) -> Snapshot:
        """What is live, for writing to disk; call where nothing writes."""
        with self.searching() as structure, self.reads_lock, self.reads.reading():
            return Snapshot(self.reads.head(), structure, self.names, self.reads.deleted())

    def _update(self) -> tuple[int, dict[int, str], Keys, NDArray[np.float32], Keys] | None:
        """What brings the structure to the commit that the transaction sees, loading it first if need be."""
        if self.structure is None:
            self._load()
        try:
            commits = self.reads.commits_after(self.seq)
        except KeyError:
            # Too far behind: a newer snapshot is there, since commits are only dropped for one.
            self._load()
            commits = self.reads.commits_after(self.seq)
        return changes(self.reads, commits) if commits else None

    def _load(self) -> None:
        from duality.index.rebuilding import build_from_records

        try:
            found = read_snapshot(self.folder, self.name)
            if found and not self._belongs(found.head):
                found = None
        except DamageError as error:
            say(f"warning: {error}; using the records instead")
            found = None
        if found is None:
            found = build_from_records(self.reads, self.options, queries=self.asking())
            self.homeless = True
        self.take(found)

    def _belongs(self, head: Head) -> bool:
        """Whether a snapshot is of a commit of these records that they can be followed from."""
        return self.reads.chain_of(head.seq) == head.chain

    def _apply(
        self, seq: int, ids: Mapping[int, str], keys: Keys, vectors: NDArray[np.float32], removed: Keys
    ) -> None:
        structure = self.structure
        assert structure is not None
        self.names.add(ids)
        try:
            structure.expect(removed)
            steps = structure.staging(keys, vectors)
            done = False
            while not done:
                with self.lock.exclusive:
                    if len(removed):
                        # Searches must not see the removals without the rest, so all is one step.
                        structure.remove(removed)
                        for _ in steps:
                            pass
                        done = True
                    else:
                        done = next(steps, True) is True
                    if done:
                        self.seq = seq
        except BaseException:
            # Half-applied changes must not pass for a commit.
            with self.lock.exclusive:
                self.structure = None
            raise


def changes(
    reads: RecordReads, commits: Sequence[Commit]
) -> tuple[int, dict[int, str], Keys, NDArray[np.float32], Keys]:
    """What commits did: the newest's number, ids by key, keys, vectors, removed keys."""
    removed = np.unique(np.concatenate([commit.removed for commit in commits]))
    changed = np.unique(np.concatenate([commit.changed for commit in commits]))
    keys = np.setdiff1d(changed, removed)
    rows = reads.checked(keys.tolist())
    vectors = reads.matrix([vector for _, _, vector, _ in rows])
    return commits[-1].seq, {key: id for key, id, _, _ in rows}, keys, vectors, removed
