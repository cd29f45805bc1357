"""The checksum of a database file at rest: what a writer leaves when it closes.

SQLite keeps no checksum of its pages, and its own check misses most flipped bits. A sealed file
is compared whole when it is opened; a writer breaks the seal before it changes the file.

Writes: `<side>.seal`: the commit that the file holds, its size and checksum.
Cost:   reading the file once at opening (checksums.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from duality.artifacts import fsync_path
from duality.errors import DamageError
from duality.index.checksums import file_crc
from duality.index.documents import open_regular, read_document, write_document
from duality.index.head import ADVICE, Head


def seal(database: Path, head: Head) -> None:
    """Record what a closed database file is; call when its log is empty."""
    facts = {"seq": head.seq, "chain": head.chain.hex(), "bytes": database.stat().st_size}
    write_document(_path(database), {**facts, "crc": _crc(database)})


def break_seal(database: Path) -> None:
    """Say durably that the file is about to change."""
    path = _path(database)
    if path.exists():
        path.unlink()
        fsync_path(path.parent)


def check_seal(database: Path, head: Head) -> bool:
    """Compare a file with its seal; False when there is no seal of this commit.

    Raises:
        DamageError: the file is not what was sealed.
    """
    before = _read(database)
    if before is None or (before["seq"], before["chain"]) != (head.seq, head.chain.hex()):
        return False
    same = database.stat().st_size == before["bytes"] and _crc(database) == before["crc"]
    # A writer that came meanwhile has broken the seal; then the comparison says nothing.
    if not same and _read(database) == before:
        raise DamageError(f"{database} has changed since it was closed, so it is damaged: {ADVICE}")
    return same


def _crc(path: Path) -> int:
    with open(open_regular(path), "rb") as file:
        return file_crc(file.fileno())


def _path(database: Path) -> Path:
    return database.with_suffix(".seal")


def _read(database: Path) -> dict[str, Any] | None:
    try:
        found = read_document(_path(database), ADVICE)
    except (OSError, DamageError):
        # A damaged seal proves nothing: the records are checked one by one instead.
        return None
    return found if {"seq", "chain", "bytes", "crc"} <= found.keys() else None
