"""Before a store is served: nothing acknowledged is missing, and the file is what was written.

A file at rest is compared with its seal. One without a seal either has a living writer, which
checked it when it opened it, or was left by a process that died: then every record is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from duality.errors import DamageError
from duality.index.checking import content_problems
from duality.index.head import ADVICE, Head, read_head, reset_head
from duality.index.reads import RecordReads
from duality.index.seal import check_seal
from duality.index.store import RecordStore


class Opened(NamedTuple):
    """A checked store: the connection, and whether the file is as its seal says."""

    store: RecordStore
    sealed: bool


def open_store(path: Path, *, writable: bool, written: bool = False) -> Opened:
    """Open the records of a side.

    Args:
        path: the database file.
        writable: whether the caller holds the writer's lock.
        written: whether another process holds it now.

    Raises:
        InputError: there is no store.
        DamageError: acknowledged commits are missing, or the content is damaged.
    """
    _refuse_links(path)
    if not path.exists():
        raise DamageError(f"{path} is not there: {ADVICE}")
    for _ in range(20):
        head, problems = read_head(path.with_suffix(".head"))
        sealed = _log_is_empty(path) and check_seal(path, head)
        store = RecordStore.open(path, writable=writable)
        try:
            with store.reading():
                linked = _linked(store, head)
                if linked and not (sealed or written):
                    _check(store)
                newest = store.head()
        except BaseException:
            store.close()
            raise
        if linked:
            if writable and (problems or newest != head):
                # A commit that was written but never acknowledged is whole, so it may stay.
                reset_head(path.with_suffix(".head"), newest)
            return Opened(store, sealed)
        store.close()
    raise DamageError(f"{path} does not agree with its head: {ADVICE}")


def _refuse_links(path: Path) -> None:
    """SQLite follows links; what it wrote through one would be elsewhere, or nowhere."""
    for name in (path.name, path.name + "-wal", path.name + "-shm"):
        beside = path.with_name(name)
        if beside.is_symlink() or (beside.exists() and not beside.is_file()):
            raise DamageError(f"{beside} is not a plain file: {ADVICE}")


def _log_is_empty(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return not log.exists() or log.stat().st_size == 0


def _linked(store: RecordReads, head: Head) -> bool:
    """Whether the acknowledged commit is there; False when a writer has moved on too far to tell."""
    newest = store.last().seq
    if newest < head.seq:
        raise DamageError(
            f"{store.path}: {head.seq - newest} acknowledged commits after commit {newest} are missing, "
            f"so its log is damaged: {ADVICE}"
        )
    chain = store.chain_of(head.seq)
    if chain is not None and chain != head.chain:
        raise DamageError(f"{store.path}: commit {head.seq} is not the one that was acknowledged: {ADVICE}")
    return chain is not None


def _check(store: RecordReads) -> None:
    problems = content_problems(store)
    if problems:
        raise DamageError(f"{store.path}: {problems[0]}: {ADVICE}")
