"""Where and how the process runs: home folder, threads, progress. Never imports torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def home() -> Path:
    """Folder that relative defaults start from: `$DUALITY_HOME`, else the current folder."""
    return Path(os.environ.get("DUALITY_HOME", "."))


def num_threads() -> int:
    """Cores this process may use: `$OMP_NUM_THREADS` if set, else the scheduler's affinity."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


def brief_spins() -> None:
    """Let idle OpenMP workers spin for a moment and then sleep.

    Spinning as long as OpenMP's default slows FAISS 3 to 11 times on shared cores; sleeping at once
    (OMP_WAIT_POLICY=passive) halves the speed of training with two threads, whose calls are short (LOG.md, 2026-11-23).

    Call before the first import of torch or faiss: OpenMP reads it once.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def leads() -> bool:
    """Whether this process speaks and writes: the first of those that `torchrun` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


class Progress:
    """Progress of a loop: a bar with rate and ETA on a terminal, a plain line now and then in a log.

    Args:
        total: steps in all, or None when unknown.
        label: what is being done, in a word or two.
        unit: what one step is.
        stream: where it goes; stderr, so that stdout stays a document.
        quiet_seconds: nothing is printed before this much time has passed.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        *,
        unit: str = "rows",
        stream: TextIO | None = None,
        quiet_seconds: float = 2.0,
    ) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.started = time.monotonic()
        self.done = 0
        self._every = 0.2 if self.terminal else 15.0
        self._next = self.started + quiet_seconds
        self._shown = False

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more and redraw if it is time."""
        self.done += steps
        now = time.monotonic()
        if now >= self._next and leads():
            self._next = now + self._every
            self._write(self.line(now, note))

    def line(self, now: float, note: str = "") -> str:
        """The text of the progress line at monotonic time `now`."""
        elapsed = max(now - self.started, 1e-9)
        rate = self.done / elapsed
        parts = [self.label]
        if self.total:
            share = min(self.done / self.total, 1.0)
            if self.terminal:
                parts.append("█" * round(share * 20) + "░" * (20 - round(share * 20)))
            parts.append(f"{share:4.0%}")
        else:
            parts.append(f"{self.done:,}")
        parts.append(f"{rate:,.0f} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{max(self.total - self.done, 0) / rate:,.0f} s left")
        return "  ".join(parts + ([note] if note else []))

    def close(self) -> None:
        """End the line; on a terminal the bar is cleared."""
        if self._shown and self.terminal:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()

    def _write(self, text: str) -> None:
        self._shown = True
        self.stream.write(f"\r\x1b[2K{text}" if self.terminal else f"{text}\n")
        self.stream.flush()


@contextmanager
def progress(total: int | None, label: str, *, unit: str = "rows") -> Iterator[Progress]:
    """`with progress(n, "scoring") as bar: bar.advance()`."""
    bar = Progress(total, label, unit=unit)
    try:
        yield bar
    finally:
        bar.close()


def say(text: str) -> None:
    """A line for the person at the terminal: stderr, so that stdout stays a document."""
    if leads():
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
