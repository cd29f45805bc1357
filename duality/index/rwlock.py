"""Many searches at once, or one change: FAISS structures crash when searched while they change.

Cost: below a microsecond for a sharer that need not wait.
"""

from __future__ import annotations

import threading
from types import TracebackType


class SharedLock:
    """`with lock.shared:` admits many; `with lock.exclusive:` one alone, and before later sharers."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.condition = threading.Condition(self.mutex)
        self.sharers, self.waiting, self.alone = 0, 0, False
        self.shared, self.exclusive = _Shared(self), _Exclusive(self)


class _Shared:
    def __init__(self, lock: SharedLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock.mutex:
            while lock.alone or lock.waiting:
                lock.condition.wait()
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
                while lock.alone or lock.sharers:
                    lock.condition.wait()
                lock.alone = True
            finally:
                lock.waiting -= 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock = self._lock
        with lock.mutex:
            lock.alone = False
            lock.condition.notify_all()
