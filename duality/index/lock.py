"""One writer per index folder: a lock that the system drops when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from duality.errors import DualityError, InputError
from duality.index.documents import open_regular

# A reader that looks whether a writer is there holds the lock for microseconds.
_PATIENCE = 0.25
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK


class WriterLock:
    """Exclusive lock on an index folder; readers do not hold it.

    Raises:
        DualityError: another process (or object) holds it; names its process id.
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._descriptor = os.open(folder / "writer.lock", _FLAGS, 0o644)
        except OSError as error:
            raise InputError(
                f"{folder / 'writer.lock'} cannot be written ({error.strerror}): "
                "see to the folder's permissions, or open the index for reading"
            ) from None
        deadline = time.monotonic() + _PATIENCE
        while not _locked(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(self._descriptor)
                raise DualityError(
                    f"{folder} is being written by process {holder}: "
                    "wait until it ends, or open it for reading"
                )
            time.sleep(0.005)
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._descriptor)
            raise DualityError(f"{folder / 'writer.lock'} cannot be written ({error.strerror})") from None

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._descriptor)


def is_written(folder: Path) -> bool:
    """Whether a process holds the writer's lock of an index folder now."""
    try:
        descriptor = open_regular(folder / "writer.lock")
    except OSError:
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
