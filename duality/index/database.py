"""The SQLite file of one side: tables, transactions, durability.

Writes: one transaction per batch, synced to the device before the call returns; each commit
        raises `seq` by one.
Reads:  other processes may read while one writes; everything inside `reading()` sees one commit.
Cost:   one fsync per batch; batch your upserts.

Tables: meta (dim, seq, floor, next_key); attributes (name, kind, slot: column a<slot> of
records); records (key, id, vector float32 little-endian, crc, seq of the vector's last change,
a0, a1, ...); tombstones (keys removed since the last compaction). Keys are never used again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from duality.errors import DamageError, DualityError, InputError

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE attributes (name TEXT PRIMARY KEY, kind TEXT NOT NULL, slot INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, vector BLOB NOT NULL, crc INTEGER NOT NULL,
    seq INTEGER NOT NULL
);
CREATE INDEX records_seq ON records (seq);
CREATE TABLE tombstones (key INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
"""


class Database:
    """The file, its transactions and its numbers; reads and writes of records build on it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection
        self.dim = self.meta("dim")

    @classmethod
    def create(cls, path: Path, dim: int) -> Self:
        """Make an empty store for vectors of `dim` values."""
        connection = _connect(path, "rwc")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(_SCHEMA)
        meta = {"dim": dim, "seq": 0, "floor": 0, "next_key": 1}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> Self:
        """Open an existing store.

        Raises:
            InputError: there is none.
            DamageError: the file is not a readable store.
        """
        if not path.exists():
            raise InputError(f"no index side at {path}: make one with `duality index build`")
        with _damage(path):
            # Without write access to the folder SQLite cannot make its shared-memory file.
            sealed = not os.access(path.parent, os.W_OK)
            return cls(path, _connect(path, "rw" if writable else "ro", immutable=sealed and not writable))

    def close(self) -> None:
        """Close the connection; the last one to close folds the log into the main file."""
        self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything inside sees one commit, whatever a writer does meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        with _damage(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[int]:
        """One durable commit, or nothing at all; yields its seq."""
        with _damage(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                seq = self.meta("seq") + 1
                yield seq
                self.set_meta("seq", seq)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def meta(self, name: str) -> int:
        """A number of the table `meta`."""
        return self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]

    def set_meta(self, name: str, value: int) -> None:
        """Set a number of the table `meta`; inside `writing()`."""
        self._connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def compact(self) -> None:
        """Forget tombstones and give free space back; not inside `writing()`."""
        with _damage(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("DELETE FROM tombstones")
            self.set_meta("floor", self.meta("seq"))
            self._connection.execute("COMMIT")
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _connect(path: Path, mode: str, *, immutable: bool = False) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + f"?mode={mode}" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DualityError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DamageError(f"{path} is damaged ({error}): build the index again") from error
