"""One writer per index folder: a lock that the system drops when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from duality.errors import DualityError


class WriterLock:
    """Exclusive lock on an index folder; readers do not take it.

    Raises:
        DualityError: another process (or object) holds it; names its process id.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise DualityError(
                f"{folder} is being written by process {holder}: wait until it ends, or open it for reading"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._descriptor)
