"""What a writer does beside writing: new snapshots, structures built anew, space given back.

In the background, interruptible; searches go on meanwhile, writes wait only for short steps.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from duality.errors import DualityError
from duality.index.database import Commit
from duality.index.head import Head
from duality.index.live import Live
from duality.index.rebuilding import rebuild
from duality.index.snapshot import Snapshot, snapshot_facts, write_snapshot
from duality.index.writer import Writer
from duality.runtime import say

# A snapshot this far behind (share of the side, and rows) is written anew when a writer closes.
LAG_SHARE, LAG_ROWS = 0.1, 1_000
# Rows that change between two looks at whether the structure still fits.
_LOOK_ROWS = 250
# Lists are trained anew, which is cheap, when this share of their vectors has changed.
_RETRAIN_SHARE, _RETRAIN_ROWS = 0.3, 1_000
# Free pages are given back in steps of 1 MiB, so that no write waits long.
_STEP_PAGES, _FREE_PAGES = 256, 1_024


class _Stop(Exception):  # noqa: N818
    """The writer closes: give up the work in the background."""


class Upkeep:
    """Of one writable side.

    Args:
        live: the structure that serves.
        writer: the writer of the records.
    """

    def __init__(self, live: Live, writer: Writer) -> None:
        self._live, self._writer = live, writer
        # Rows that changed since the last look, and since the structure was built.
        self._changed, self._since_build = 0, 0
        self._stop = threading.Event()
        self._one = threading.Lock()
        self._thread: threading.Thread | None = None

    def after(self, commit: Commit) -> None:
        """Start what a commit made due, in the background."""
        rows = len(commit.changed) + len(commit.removed)
        self._changed += rows
        self._since_build += rows
        busy = self._thread is not None and self._thread.is_alive()
        if busy or self._changed < _LOOK_ROWS or self._live.structure is None:
            return
        self._changed = 0
        if self._stale():
            self._start(self._rebuild_behind)
        elif self._writer.store.free_pages() > _FREE_PAGES:
            self._start(self._give_back)

    def _stale(self) -> bool:
        structure = self._live.structure
        if structure is None or structure.stale():
            return structure is not None
        lists = structure.kind not in ("exact", "hnsw")
        return lists and self._since_build > max(_RETRAIN_ROWS, _RETRAIN_SHARE * structure.count)

    def save(self) -> None:
        """Write the live structure as the snapshot on disk."""
        with self._one, self._writer.lock, self._telling():
            write_snapshot(self._live.folder, self._live.name, self._live.pack())
            self._trim()

    def compact(self, *, erase: bool = False, device: str | None = None) -> None:
        """Write file and structure anew; with `erase`, insist on an empty log."""
        self._halt()
        with self._one, self._writer.lock, self._telling():
            with self._writer.changing():
                self._writer.store.vacuum()
            self._adopt(self._built(device))
            with self._writer.changing():
                if not self._writer.store.fold_log(10.0 if erase else 0.5) and erase:
                    raise DualityError(
                        f"{self._writer.store.path}: deleted, but a reader still holds the log that has the "
                        "old bytes: close the readers and run it again"
                    )

    def lag(self) -> int:
        """Rows that changed since the snapshot on disk."""
        seq, _ = snapshot_facts(self._live.folder, self._live.name)
        try:
            commits = self._writer.store.commits_after(seq)
        except KeyError:
            return self._writer.store.count()
        return sum(len(commit.changed) + len(commit.removed) for commit in commits)

    def close(self) -> None:
        """Stop the background, and leave a snapshot that opens fast."""
        self._halt()
        try:
            lag = self.lag()
            if self._live.homeless or lag > max(LAG_ROWS, LAG_SHARE * self._writer.store.count()):
                self.save()
        except DualityError as error:
            say(f"warning: no new snapshot of {self._live.name} ({error})")

    def _rebuild_behind(self) -> None:
        # What changed while it was built may make the next one due at once.
        while self._stale():
            with self._one:
                self._adopt(self._built(None))
        self._give_back()

    def _built(self, device: str | None) -> Snapshot:
        live = self._live
        self._since_build = 0
        database = self._writer.store.path
        return rebuild(
            database,
            live.folder,
            live.name,
            live.options,
            queries=live.asking(),
            device=device,
            alive=self._alive,
        )

    def _adopt(self, built: Snapshot) -> None:
        if self._live.structure is not None:
            self._live.adopt(built)
        self._trim(built.head)

    def _trim(self, head: Head | None = None) -> None:
        seq = snapshot_facts(self._live.folder, self._live.name)[0] if head is None else head.seq
        with self._writer.changing():
            self._writer.store.trim(seq)

    def _give_back(self) -> None:
        free, before = self._writer.store.free_pages(), 0
        while free and free != before:
            self._alive()
            with self._writer.changing():
                before, free = free, self._writer.store.give_back(_STEP_PAGES)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors of the device as one line; a snapshot that was not written leaves the old one."""
        try:
            yield
        except OSError as error:
            place = error.filename or self._live.folder
            raise DualityError(f"{place}: not written ({error.strerror or error})") from error

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            _step_back()
            try:
                work()
            except _Stop:
                return
            except (DualityError, OSError) as error:
                say(f"warning: upkeep of {self._live.name} stopped: {error}")

        self._stop.clear()
        self._thread = threading.Thread(target=run, name=f"upkeep-{self._live.name}", daemon=True)
        self._thread.start()

    def _halt(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._stop.clear()
            self._thread = None

    def _alive(self) -> None:
        if self._stop.is_set():
            raise _Stop


def _step_back() -> None:
    """Let searches and writes go first: this thread, and those it starts, get a lower priority.

    Elsewhere than on Linux a priority belongs to the process, which keeps it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
