"""The lock between searches and changes: exclusion both ways, and nobody starves."""

from __future__ import annotations

import threading
import time

from duality.index.rwlock import SharedLock


def test_changes_are_alone_and_searches_are_not():
    lock, inside, wrong, most = SharedLock(), [], [], []
    stop = time.monotonic() + 1.0

    def work(kind, guard):
        while time.monotonic() < stop:
            with guard:
                inside.append(kind)
                seen = list(inside)
                if kind == "alone" and len(seen) > 1:
                    wrong.append(seen)
                if kind == "shared" and "alone" in seen:
                    wrong.append(seen)
                most.append(len(seen))
                time.sleep(0.0005)
                inside.remove(kind)

    threads = [threading.Thread(target=work, args=("shared", lock.shared)) for _ in range(3)]
    threads += [threading.Thread(target=work, args=("alone", lock.exclusive)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert max(most) == 3


def test_a_change_in_many_steps_lets_searches_through():
    lock, searches, done = SharedLock(), [], threading.Event()

    def change():
        for _ in range(40):
            with lock.exclusive:
                time.sleep(0.005)
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not done.is_set():
        with lock.shared:
            searches.append(time.monotonic())
    thread.join()
    # One at least between two steps, were the steps to follow one another without a pause.
    assert len(searches) >= 35


def test_an_error_inside_lets_go():
    lock = SharedLock()
    for guard in (lock.shared, lock.exclusive):
        try:
            with guard:
                raise RuntimeError
        except RuntimeError:
            pass
    with lock.exclusive:
        pass
    with lock.shared:
        pass
