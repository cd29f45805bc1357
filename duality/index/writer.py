"""The one writer of a side: a commit is acknowledged when it stands in the database and in the head.

Cost: two syncs per commit; batch your upserts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from duality.errors import DamageError, DualityError, InputError
from duality.index.database import Commit
from duality.index.head import Head, write_head
from duality.index.opening import Opened
from duality.index.seal import break_seal, seal
from duality.runtime import say


class Writer:
    """Commits to one store; made by a side whose folder is locked for writing.

    After an error of the device nothing more is written: what reached it is not known then.
    """

    def __init__(self, opened: Opened) -> None:
        self.store, self._sealed = opened
        self.lock = threading.RLock()
        self._broken: str | None = None

    @contextmanager
    def commit(self) -> Iterator[Commit]:
        """One acknowledged commit, or nothing.

        Raises:
            DualityError: the device failed, now or before; open the index again.
        """
        with self.changing():
            with self.store.writing() as commit:
                yield commit
            write_head(self.store.path.with_suffix(".head"), Head(commit.seq, commit.chain))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Whatever changes the file happens in here: alone, unsealed, and not after a failure."""
        with self.lock:
            if self._broken:
                raise DualityError(f"{self.store.path}: no more writes after: {self._broken}; open it again")
            try:
                if self._sealed:
                    break_seal(self.store.path)
                    self._sealed = False
                yield
            except InputError:
                raise
            except DamageError as error:
                self._broken = str(error)
                raise
            except (DualityError, OSError) as error:
                self._broken = str(error)
                raise DualityError(
                    f"{self.store.path}: not written ({error}): see to the device, then open the index again"
                ) from error

    def close(self) -> None:
        """Fold the log into the file, seal it, and let go."""
        with self.lock:
            path, head = self.store.path, self.store.head() if not self._broken else None
            folded = head is not None and not self._sealed and self.store.fold_log(2.0)
            self.store.close()
            if folded and head is not None:
                try:
                    seal(path, head)
                except OSError as error:
                    say(
                        f"warning: {path} is not sealed ({error.strerror}): it is checked when it is opened next"
                    )
