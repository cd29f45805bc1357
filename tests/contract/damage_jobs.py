"""Damage done to a copy of an index folder, and what the index then says and serves."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contract_checks import ADVICE, served, verified
from contract_states import State, from_json

from duality.errors import DualityError
from duality.index.pair import Pair, verify_folder

Emit = Callable[[dict[str, Any]], None]
# Files that are made from the records: a damaged one is replaced without being asked.
DERIVED = re.compile(r"(users|items)\.snapshot(-|\.json)")
# Not part of what is stored: without it nobody may write, and reading goes on.
LOCK = "writer.lock"
# What stands in a file's place and is not ours to remove; the message about it is clear.
LEFT = ("directory",)
HOSTILE = ("missing", "empty", "random", "huge", "deep", "directory", "fifo", "zero", "outside")
OUTSIDE = b"belongs to somebody else\n"


def files_of(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it; shared memory of SQLite and the lock included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def damage(folder: Path, case: dict[str, Any]) -> None:
    """Damage the file of a case: `flip` bit `at`, `cut` to `at` bytes, or one of HOSTILE."""
    path, how = folder / case["file"], case["how"]
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[case["at"] // 8] ^= 1 << case["at"] % 8
        path.write_bytes(data)
    elif how == "cut":
        os.truncate(path, case["at"])
    else:
        path.unlink()
        _replace(path, how, bytes(data))


def _replace(path: Path, how: str, data: bytes) -> None:
    outside = path.parent / f"{path.name}.outside"
    if how == "directory":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "outside":
        outside.write_bytes(OUTSIDE)
        path.symlink_to(outside)
    elif how != "missing":
        path.write_bytes(_hostile_bytes(how, data))


def _hostile_bytes(how: str, data: bytes) -> bytes:
    if how == "empty":
        return b""
    if how == "deep":
        return b"[" * 200_000
    if how == "random":
        return random.Random(len(data)).randbytes(max(len(data), 500))
    # Every number of a text becomes huge; of a binary file, every field of its first bytes.
    try:
        return re.sub(r"\d+", "9" * 18, data.decode()).encode()
    except UnicodeDecodeError:
        magic, rest = data[:16], data[116:]
        shape = re.sub(rb"\((\d+)", b"(99999999999", data[:128])
        return shape + data[128:] if shape != data[:128] else magic + b"\xff" * 100 + rest


def _fresh(base: str, folder: str, case: dict[str, Any]) -> Path:
    target = Path(folder)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base, target)
    damage(target, case)
    return target


def tear(
    emit: Emit, base: str, folder: str, states: list[str], named: bool, cases: list[dict[str, Any]]
) -> None:
    """Cut a file and open.

    Args:
        emit: one message per case.
        base: the whole folder.
        folder: where the copies go.
        states: files with the states that may be served.
        named: a refusal that names a file and what to do is right as well.
        cases: see `damage`; `mode` is that of the opening.
    """
    expected = [from_json(Path(state).read_text()) for state in states]
    for case in cases:
        target = _fresh(base, folder, case)
        message, problems = served(target, expected[0], case["mode"])
        for other in expected[1:]:
            if problems:
                message, problems = served(target, other, case["mode"])
        if message is not None and not named:
            problems.append(f"refused: {message}")
        elif message is not None:
            problems += _unhelpful(message, base)
        emit({"problems": problems})


def _unhelpful(message: str, base: str) -> list[str]:
    names = {part for file in files_of(Path(base)) for part in Path(file).parts}
    named = any(name in message for name in names)
    return [] if named and ADVICE.search(message) else [f"names no file or no way out: {message[:300]}"]


def examine(emit: Emit, base: str, folder: str, state: str, cases: list[dict[str, Any]]) -> None:
    """Damage a file; then `verify` finds it or all is unchanged, and no wrong row is served."""
    expected = from_json(Path(state).read_text())
    for case in cases:
        emit({"problems": _examined(_fresh(base, folder, case), expected, case)})


def _examined(folder: Path, expected: State, case: dict[str, Any]) -> list[str]:
    report, problems = verified(folder)
    message, wrong = served(folder, expected, case["mode"])
    if wrong:
        problems += wrong
    elif message is not None and not report and case["file"] != LOCK:
        problems.append(f"verify says that all is well; opening says: {message}")
    elif message is not None and DERIVED.search(case["file"]):
        problems.append(f"refused over a file that can be made again: {message}")
    elif message is None and report and case["mode"] == "w" and case["how"] not in LEFT:
        problems += _mended(folder, expected)
    outside = folder / f"{case['file']}.outside"
    if outside.exists() and outside.read_bytes() != OUTSIDE:
        problems.append("a file outside was written through a link")
    return problems


def _mended(folder: Path, expected: State) -> list[str]:
    """What is still wrong after following the advice that is right for anything derived."""
    try:
        with Pair.open(folder, "w") as pair:
            for side in (pair.users, pair.items):
                # The next write and a compaction: what reports may advise for an index that serves.
                id = next(iter(expected[side.name]))
                side.upsert([id], np.frombuffer(expected[side.name][id][0], "<f4").reshape(1, -1))
                side.compact()
    except DualityError as error:
        return [f"served, but not to be mended: {error}"]
    message, problems = served(folder, expected)
    left = [message] if message else verify_folder(folder)
    return problems + [f"after a write and compact: {line}" for line in left]
