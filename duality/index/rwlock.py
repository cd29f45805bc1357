"""Many searches at once, or one change: FAISS structures crash when searched while they change.

Cost: below a microsecond for a sharer that need not wait.
"""

from __future__ import annotations

import threading
from types import TracebackType


class SharedLock:
    """`with lock.shared:` admits many; `with lock.exclusive:` one alone.

    Who waits alone comes before later sharers; when it is done, the sharers that queued meanwhile
    come before the next one alone: neither can starve the other.
    """

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.condition = threading.Condition(self.mutex)
        # Inside; waiting to be alone; sharers that queue; of these, how many go before the next alone.
        self.sharers, self.waiting, self.queued, self.owed = 0, 0, 0, 0
        self.alone = False
        self.shared, self.exclusive = _Shared(self), _Exclusive(self)


class _Shared:
    def __init__(self, lock: SharedLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock.mutex:
            if lock.alone or lock.waiting:
                lock.queued += 1
                try:
                    while lock.alone or (lock.waiting and not lock.owed):
                        lock.condition.wait()
                finally:
                    lock.queued -= 1
                    if lock.owed:
                        lock.owed -= 1
                        lock.condition.notify_all()
            lock.sharers += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock = self._lock
        with lock.mutex:
            lock.sharers -= 1
            if lock.waiting and not lock.sharers:
                lock.condition.notify_all()


class _Exclusive:
    def __init__(self, lock: SharedLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock.mutex:
            lock.waiting += 1
            try:
                while lock.alone or lock.sharers or lock.owed:
                    lock.condition.wait()
                lock.alone = True
            finally:
                lock.waiting -= 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock = self._lock
        with lock.mutex:
            lock.alone, lock.owed = False, lock.queued
            lock.condition.notify_all()
