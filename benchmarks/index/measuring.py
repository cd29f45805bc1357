"""Clocks, interleaving, child processes, synced writes counted, tables printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

CHILD = Path(__file__).with_name("child.py")
# A sync of a file that is not open fails at once and shows in a trace: it marks where counting begins and ends.
_MARK = 999_999
_SYNCS = "fsync,fdatasync,msync,sync,syncfs,sync_file_range"


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(calls: Mapping[str, Callable[[], Any]], repeat: int, before: int = 0) -> dict[str, float]:
    """Median seconds per call; the calls take turns, so that what disturbs one disturbs all.

    Args:
        calls: what to time.
        repeat: turns of each.
        before: how often each call is made, untimed, right before it is timed: with 0 a call never
            follows itself and finds what others left in the caches, with 2 all find their own data.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(repeat):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(before):
                calls[name]()
            times[name].append(seconds(calls[name]))
    return {name: float(np.median(values)) for name, values in times.items()}


def turns(call: Callable[[], Any], budget: float, least: int = 5, most: int = 41) -> int:
    """Repetitions of a call that fit into `budget` seconds; odd, so that the median is one of them."""
    taken = max(seconds(call), 1e-6)
    return min(max(int(budget / taken), least), most) | 1


@contextmanager
def workplace(label: str = "bench") -> Iterator[Path]:
    """A folder on disk that is removed."""
    folder = Path(tempfile.mkdtemp(prefix=f"duality-{label}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_child(
    function: str,
    arguments: Mapping[str, Any],
    *,
    python: str | Path = sys.executable,
    wrapper: Sequence[str] = (),
    timeout: float = 1_800,
) -> Any:
    """Result of "module:function" of this folder in a fresh process.

    Raises:
        RuntimeError: it failed; the message ends with its last line.
    """
    command = [*wrapper, str(python), str(CHILD), function, json.dumps(dict(arguments))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=dict(os.environ))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise RuntimeError(f"{function}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def mark() -> None:
    """In a traced child: counting of synced writes begins or ends here."""
    try:
        os.fsync(_MARK)
    except OSError:
        return


def synced(function: str, arguments: Mapping[str, Any], python: str | Path = sys.executable) -> int | None:
    """Synced writes of a child between its first two marks; None without strace."""
    if not shutil.which("strace"):
        return None
    with workplace("trace") as folder:
        log = folder / "trace"
        wrapper = ["strace", "-f", "-qq", "-e", f"trace={_SYNCS}", "-e", "signal=none", "-o", str(log)]
        in_child(function, arguments, python=python, wrapper=wrapper)
        lines = [line for line in log.read_text().splitlines() if "resumed>" not in line]
    marks = [number for number, line in enumerate(lines) if re.search(rf"fsync\({_MARK}\b", line)]
    return marks[1] - marks[0] - 1


def peak_mb() -> int:
    """Largest resident set of this process so far, mapped files included."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) // 1024 if found else -1


def size_mb(folder: Path) -> float:
    """What the files of a folder take, in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table; columns in the order they first came."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(shown(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value of a table, three digits."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"
