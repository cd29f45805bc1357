"""Files that are either the old version or the new one, never half of each.

Writes: temporary file or folder beside the target, fsync, rename, fsync of the parent.
Cost:   two fsyncs per artifact.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from duality.errors import DamageError, InputError


def fsync_path(path: Path) -> None:
    """Flush a file or folder to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it replaces `target` durably, on error it is gone."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, target)
        fsync_path(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, *, marker: str) -> Iterator[Path]:
    """Yield a temporary folder; on success it replaces `target`, on error it is gone.

    Args:
        target: the folder to create or replace.
        marker: a file that every folder of this kind holds. An existing non-empty
            `target` without it belongs to somebody else and is refused.

    Raises:
        InputError: `target` exists and is not a folder of this kind.
    """
    target = Path(target)
    check_replaceable(target, marker=marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        with ThreadPoolExecutor(4) as pool:  # one after the other, each would wait for the disk alone
            list(pool.map(fsync_path, temporary.rglob("*")))
        _swap_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(target: Path, *, marker: str) -> None:
    """Refuse what `atomic_folder` would refuse, before the work that fills the folder.

    Raises:
        InputError: `target` exists and is not a folder of this kind.
    """
    if target.exists() and not (
        target.is_dir() and ((target / marker).exists() or not any(target.iterdir()))
    ):
        raise InputError(f"{target} exists and holds no {marker}: choose another folder or move it away")


def _swap_folder(new: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    fsync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically, keys in the order given, readable by people."""
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
        )


def read_json(path: Path, *, what: str, make: str) -> Any:
    """Read a JSON document that duality wrote.

    Args:
        path: the file.
        what: what the file is, for the message ("a dataset").
        make: the command that makes it, for the message.

    Raises:
        InputError: there is no such file.
        DamageError: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no {what} at {Path(path).parent}: make one with `{make}`") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamageError(f"{path} is not readable JSON ({error}): make it again with `{make}`") from None


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(*parts: str | bytes) -> str:
    """First 16 hexadecimal digits of SHA-256 over length-prefixed parts: an identity, not a secret."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]
