"""The SQLite file of one side: connection, transactions, and the chain of commits.

Writes: one transaction per batch, synced to the device, then the head (head.py), synced too,
        before the call returns.
Reads:  other processes may read while one writes; everything inside `reading()` sees one commit.
Cost:   two syncs per batch; batch your upserts.

Tables: records (key, id, vector float32 little-endian, crc, a0, a1, ...); commits (seq; facts:
JSON of dim, next_key, count, deleted, columns; changed, removed: int64 keys; state: sum of the
records' digests modulo 2^64; chain). `chain` is a digest over all the others and the chain of
the commit before, so the last one stands for the whole content. Keys are never used again.
Commits that the snapshot holds are dropped, but for the last two.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from duality.errors import DamageError, DataError, DualityError, InputError
from duality.index.head import ADVICE, Head

_SCHEMA = """
CREATE TABLE records (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL, vector BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE commits (
    seq INTEGER PRIMARY KEY, facts TEXT NOT NULL, changed BLOB NOT NULL, removed BLOB NOT NULL,
    state BLOB NOT NULL, chain BLOB NOT NULL
);
"""
_UNIQUE_IDS = "CREATE UNIQUE INDEX IF NOT EXISTS records_id ON records (id)"
_FIRST_REPEAT = """
SELECT id, key FROM (SELECT id, key, row_number() OVER (PARTITION BY id ORDER BY key) AS n FROM records)
WHERE n = 2 ORDER BY key LIMIT 1
"""
_MODULUS = 1 << 64
_FACTS = {"dim", "next_key", "count", "deleted"}
# The page cache of a writer: random upserts dirty a page per row.
_CACHE_KIB = 64 * 1024
# Checkpoints at this many pages: a page that changes often is then written once for many commits.
_CHECKPOINT_PAGES = 8_192
# A log that grew beyond this is cut back when it starts anew.
_LOG_BYTES = 8 << 20


@dataclass
class Commit:
    """One commit: what is known of the whole content after it, and which vectors it touched."""

    seq: int
    facts: dict[str, Any]
    state: int
    chain: bytes = b""
    changed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    removed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def count_in(self, digest: int) -> None:
        """Add row digests to the state, or take them away as a negative sum."""
        self.state = (self.state + digest) % _MODULUS

    def following(self, previous: bytes) -> bytes:
        """The chain digest of this commit after the chain of the one before."""
        digest = hashlib.blake2b(previous, digest_size=16)
        for part in self.row()[:-1]:
            data = part if isinstance(part, bytes) else str(part).encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.digest()

    def row(self) -> tuple[int, str, bytes, bytes, bytes, bytes]:
        """As the table holds it."""
        changed, removed = (np.asarray(keys, "<i8").tobytes() for keys in (self.changed, self.removed))
        return (
            self.seq,
            json.dumps(self.facts),
            changed,
            removed,
            self.state.to_bytes(8, "little"),
            self.chain,
        )

    @classmethod
    def from_row(cls, row: tuple[int, str, bytes, bytes, bytes, bytes]) -> Commit:
        seq, text, changed, removed, state, chain = row
        facts = json.loads(text)
        if not isinstance(seq, int):
            raise ValueError("a commit without a number")
        if not facts.keys() >= _FACTS or not all(isinstance(facts[name], int) for name in _FACTS):
            raise ValueError("facts are missing")
        keys = [np.frombuffer(blob, "<i8").astype(np.int64) for blob in (changed, removed)]
        return cls(seq, facts, int.from_bytes(state, "little"), bytes(chain), *keys)


class Database:
    """The file, its transactions and its commits; reads and writes of records build on it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection
        self.dim: int = self.last().facts["dim"]

    @classmethod
    def create(cls, path: Path, dim: int) -> Self:
        """Make an empty store for vectors of `dim` values; ids are not yet indexed (`index_ids`)."""
        first = Commit(0, {"dim": dim, "next_key": 1, "count": 0, "deleted": 0, "columns": []}, 0)
        first.chain = first.following(b"")
        with damage(path):
            connection = _connect(path, "rwc")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?)", first.row())
            return cls(path, connection)

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> Self:
        """Open an existing store; what it says is not checked here (opening.py).

        Raises:
            InputError: there is none.
            DamageError: the file is not a readable store.
        """
        if not path.is_file() or path.is_symlink():
            raise InputError(f"no index side at {path}: make one with `duality index build`")
        with damage(path):
            # Without write access to the folder SQLite cannot make its shared-memory file.
            fixed = not writable and not os.access(path.parent, os.W_OK)
            return cls(path, _connect(path, "rw" if writable else "ro", immutable=fixed))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything inside sees one commit, whatever a writer does meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        with damage(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Commit]:
        """One durable commit of SQLite, or nothing at all; not acknowledged before the head is written."""
        with self._transaction():
            last = self.last()
            commit = Commit(last.seq + 1, copy.deepcopy(last.facts), last.state)
            yield commit
            commit.chain = commit.following(last.chain)
            self._connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?)", commit.row())

    @contextmanager
    def loading(self) -> Iterator[Commit]:
        """A part of a bulk load: all parts together are commit 1."""
        with self._transaction():
            first, last = self._commit("WHERE seq = 0"), self.last()
            commit = Commit(1, copy.deepcopy(last.facts), last.state)
            yield commit
            commit.chain = commit.following(first.chain)
            self._connection.execute("REPLACE INTO commits VALUES (?, ?, ?, ?, ?, ?)", commit.row())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with damage(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def last(self) -> Commit:
        """The newest commit.

        Raises:
            DamageError: there is none, or it does not read.
        """
        return self._commit("ORDER BY seq DESC LIMIT 1")

    def facts(self) -> dict[str, Any]:
        """What the newest commit says of the whole content: dim, next_key, count, deleted, columns."""
        sql = "SELECT facts FROM commits ORDER BY seq DESC LIMIT 1"
        try:
            return json.loads(self._connection.execute(sql).fetchone()[0])
        except (TypeError, ValueError):
            raise DamageError(f"{self.path}: a commit is damaged: {ADVICE}") from None

    def head(self) -> Head:
        """Number and chain of the newest commit."""
        last = self.last()
        return Head(last.seq, last.chain)

    def chain_of(self, seq: int) -> bytes | None:
        """Chain of a commit, or None when it is no longer kept."""
        row = self._connection.execute("SELECT chain FROM commits WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else bytes(row[0])

    def oldest(self) -> int:
        """The oldest commit that is kept."""
        return self._commit("ORDER BY seq LIMIT 1").seq

    def newest(self) -> int:
        """The number of the newest commit; cheap."""
        found = self._connection.execute("SELECT max(seq) FROM commits").fetchone()[0]
        if not isinstance(found, int):
            raise DamageError(f"{self.path} holds no commit: {ADVICE}")
        return found

    def commits_after(self, seq: int) -> list[Commit]:
        """The commits after `seq`, each proven to follow from the one before.

        Raises:
            DamageError: the chain is broken.
            KeyError: commit `seq` is no longer kept: nothing can be said.
        """
        rows = self._connection.execute("SELECT * FROM commits WHERE seq >= ? ORDER BY seq", (seq,))
        commits = [self._parsed(row) for row in rows]
        if not commits or commits[0].seq != seq:
            raise KeyError(seq)
        for before, after in pairwise(commits):
            if after.seq != before.seq + 1 or after.chain != after.following(before.chain):
                raise DamageError(f"{self.path}: commit {after.seq} is damaged: {ADVICE}")
        return commits[1:]

    def index_ids(self) -> None:
        """Make ids unique and findable, after a bulk load: sorting once beats 10^6 insertions.

        Raises:
            DataError: an id is there twice; names the row that repeats it.
        """
        with damage(self.path):
            try:
                self._connection.execute(_UNIQUE_IDS)
            except sqlite3.IntegrityError:
                id, row = self._connection.execute(_FIRST_REPEAT).fetchone()
                raise DataError(f"id {id} comes twice", row=row, column="id") from None

    def trim(self, seq: int) -> None:
        """Forget commits that a snapshot of commit `seq` holds, but for two."""
        with damage(self.path):
            self._connection.execute(
                "DELETE FROM commits WHERE seq < min(?, (SELECT max(seq) FROM commits)) - 1", (seq,)
            )

    def give_back(self, pages: int = -1) -> int:
        """Return up to `pages` free pages (all by default) to the file system; pages still free."""
        with damage(self.path):
            self._connection.execute(f"PRAGMA incremental_vacuum({pages if pages > 0 else 0})").fetchall()
            return self.free_pages()

    def free_pages(self) -> int:
        """Pages of the file that hold nothing."""
        return self._connection.execute("PRAGMA freelist_count").fetchone()[0]

    def vacuum(self) -> None:
        """Write the whole file anew: no byte of a removed record stays in it."""
        with damage(self.path):
            self._connection.execute("PRAGMA secure_delete=ON")
            self._connection.execute("VACUUM")

    def fold_log(self, patience: float = 0.0) -> bool:
        """Fold the log into the main file and empty it; False when readers held it for `patience` seconds."""
        with damage(self.path):
            self._connection.execute(f"PRAGMA busy_timeout={round(patience * 1000)}")
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._connection.execute("PRAGMA busy_timeout=30000")
            return not busy

    def keep_log(self) -> None:
        """Write through a log, as `create` asks; a copy made by SQLite does not."""
        with damage(self.path):
            self._connection.execute("PRAGMA journal_mode=WAL")

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the newest commit to a file that does not exist yet."""
        with damage(self.path):
            self._connection.execute("VACUUM INTO ?", (str(path),))

    def structure_problem(self) -> str | None:
        """What SQLite's own check finds, or None; reads the whole file."""
        answer = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        return None if answer == "ok" else " ".join(str(answer).split())

    def _commit(self, condition: str, parameters: tuple[Any, ...] = ()) -> Commit:
        row = self._connection.execute(f"SELECT * FROM commits {condition}", parameters).fetchone()
        if row is None:
            raise DamageError(f"{self.path} holds no commit: {ADVICE}")
        return self._parsed(row)

    def _parsed(self, row: tuple[Any, ...]) -> Commit:
        try:
            return Commit.from_row(row)
        except (ValueError, TypeError, AttributeError):
            raise DamageError(f"{self.path}: a commit is damaged: {ADVICE}") from None


def _connect(path: Path, mode: str, *, immutable: bool = False) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + f"?mode={mode}" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    if mode != "ro":
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
    return connection


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Errors of SQLite as ours, naming the file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # The statements are ours and right, so one that makes no sense to SQLite met a damaged schema.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            raise DualityError(f"{path}: {error}") from error
        told = " ".join(str(error).split())
        raise DamageError(f"{path} is damaged ({told}): {ADVICE}") from error
