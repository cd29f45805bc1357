"""JSON documents of an index that carry their own checksum: the root, generations, snapshots."""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from duality.artifacts import write_json
from duality.errors import DamageError

# Far above any document of ours: a larger file is not one.
_LIMIT = 64 << 20


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a document atomically and durably, with the key `checksum` added."""
    write_json(path, {**document, "checksum": _checksum(document)})


def read_document(path: Path, advice: str) -> dict[str, Any]:
    """A document that agrees with its checksum, without the key `checksum`.

    Raises:
        FileNotFoundError: there is none.
        DamageError: it is not such a document, or damaged; ends in `advice`.
    """
    try:
        document = read_untrusted(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamageError(f"{path} cannot be read ({error.strerror}): {advice}") from None
    found = document.pop("checksum", None)
    if found is None or found != _checksum(document):
        raise DamageError(f"{path} is damaged: {advice}")
    return document


def read_untrusted(path: Path) -> dict[str, Any]:
    """The JSON object in a plain file of bearable size; empty when it holds anything else.

    Raises:
        OSError: there is no such file, or it is not a plain one.
    """
    try:
        with open(open_regular(path), "rb") as file:
            found = json.loads(file.read(_LIMIT).decode())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def open_regular(path: Path) -> int:
    """A descriptor for reading a plain file; anything else (folder, link, device, pipe) is refused.

    Raises:
        OSError: there is none, or it is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def _checksum(document: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode())
