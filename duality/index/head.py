"""What was last acknowledged, kept outside the database: a commit counts once it stands here.

SQLite drops damaged frames of its log without a word, and with them acknowledged commits. A head
that is ahead of the database tells; one commit behind is a commit that nobody was told of.

Writes: `<side>.head`, two slots of 64 bytes written in turn, each with its own checksum, synced
        before the write is acknowledged; a torn slot leaves the other.
Cost:   one 64-byte write and one sync per commit. A reader learns in a microsecond that nothing came.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from duality.errors import DamageError
from duality.index.documents import open_regular

SLOT = 64
_FIELDS = struct.Struct("<8sQ16s28xI")
_MAGIC = b"duality2"


@dataclass(frozen=True)
class Head:
    """A commit's number and its digest in the chain of commits (16 bytes)."""

    seq: int
    chain: bytes


def write_head(path: Path, head: Head) -> None:
    """Acknowledge a commit; durable on return.

    Raises:
        OSError: the device did not take it; the commit must not be acknowledged.
    """
    _write(path, _packed(head), SLOT * (head.seq % 2))


def reset_head(path: Path, head: Head) -> None:
    """Write both slots: the start of a store, or the mending of a torn slot."""
    for slot in (0, 1):
        _write(path, _packed(head), SLOT * slot)


def read_head(path: Path) -> tuple[Head, list[str]]:
    """The newest whole slot, and what is wrong with the other, if anything.

    Raises:
        DamageError: no slot is whole.
    """
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(2 * SLOT + 1)
    except OSError as error:
        raise DamageError(f"{path} cannot be read ({error.strerror}): {ADVICE}") from None
    slots = [_slot(data[start : start + SLOT]) for start in (0, SLOT)]
    whole = [slot for slot in slots if slot is not None]
    if not whole:
        raise DamageError(f"{path} is damaged: {ADVICE}")
    newest = max(whole, key=lambda slot: slot.seq)
    wrong = len(whole) < 2 or len(data) > 2 * SLOT
    problem = f"{path.name}: one of its two copies is damaged: the next write mends it"
    return newest, [problem] if wrong else []


class Acknowledged:
    """The bytes of a head file that stays open: while they are the same, nothing was acknowledged.

    Asking SQLite whether another connection has written takes ten times as long, which counts
    before every search.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = open_regular(path)
        except OSError:
            self._descriptor = -1

    def bytes(self) -> bytes:
        """What to compare with an earlier answer; empty when that says nothing."""
        try:
            return os.pread(self._descriptor, 2 * SLOT, 0)
        except OSError:
            return b""

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


ADVICE = (
    "restore a snapshot (`duality index snapshot restore`), go back (`duality index rollback`) or build again"
)


def _packed(head: Head) -> bytes:
    body = _FIELDS.pack(_MAGIC, head.seq, head.chain, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def _write(path: Path, data: bytes, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if os.pwrite(descriptor, data, offset) < len(data):
            raise OSError(f"{path}: the device took part of a write")
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _slot(data: bytes) -> Head | None:
    if len(data) < SLOT or not data.startswith(_MAGIC):
        return None
    if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        return None
    _, seq, chain, _ = _FIELDS.unpack(data)
    return Head(seq, chain)
