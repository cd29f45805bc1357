"""JSON documents of an index that carry their own checksum: the root, generations, snapshots."""

from __future__ import annotations

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
        document = json.loads(_content(path))
        found = document.pop("checksum")
        if isinstance(document, dict) and found == _checksum(document):
            return document
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        pass
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DamageError(f"{path} cannot be read ({error.strerror}): {advice}") from None
    raise DamageError(f"{path} is damaged: {advice}")


def open_regular(path: Path) -> int:
    """A descriptor for reading a plain file; anything else (folder, link, device, pipe) is refused.

    Raises:
        OSError: there is none, or it is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a plain file")
    return descriptor


def _content(path: Path) -> str:
    with open(open_regular(path), "rb") as file:
        return file.read(_LIMIT).decode()


def _checksum(document: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode())
