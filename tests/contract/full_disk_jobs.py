"""Operations on a disk that is full or cannot sync, for every call to the disk that they make."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contract_agents import arm, disarm
from contract_checks import differences, one_line, search_problems
from contract_states import (
    State,
    applied,
    attribute_table,
    build_index,
    built_state,
    held_by,
    perform,
    rows_of,
    vectors_for,
)

from duality.errors import DualityError
from duality.index.pair import Pair, verify_folder

Emit = Callable[[dict[str, Any]], None]
BUILT = {"seed": 5, "users": 12, "items": 40}
BEFORE = {
    "verb": "upsert",
    "side": "items",
    "ids": ["i3", "i900", "i901"],
    "seed": 8,
    "columns": ["year", "title"],
    "vectors": True,
}
OPERATIONS = {
    "upsert": {**BEFORE, "ids": ["i1", "i2", "i900", "i950"], "seed": 9},
    "delete": {"verb": "delete", "side": "items", "ids": ["i4", "i900", "i30"]},
    "compact": {"verb": "compact", "side": "items"},
    "build": {"verb": "build", "kind": "", "seed": 70, "users": 9, "items": 33},
}
MOST_CALLS = 2_000


class Case:
    """One operation on a fresh copy of an index, with an acknowledged write before it."""

    def __init__(self, base: Path, folder: Path, operation: str, kind: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = Path(shutil.copytree(base, folder))
        self.write = {**OPERATIONS[operation], "kind": kind}
        self.old: State = applied(built_state(**BUILT), BEFORE)
        self.new: State = rows_of(applied(self.old, self.write))
        self.pair = perform(Pair.open(folder, "w"), BEFORE)
        if operation == "compact":
            self.pair = perform(self.pair, {"verb": "delete", "side": "items", "ids": ["i5", "i6"]})
            self.old = self.new = applied(self.old, {"verb": "delete", "side": "items", "ids": ["i5", "i6"]})
        self.operation = operation
        if operation == "build":
            self.pair.close()

    def act(self) -> tuple[str | None, list[str]]:
        """Do the operation; the message of its failure, if any, and what is wrong with it."""
        try:
            if self.operation == "build":
                build_index(self.folder, **{name: self.write[name] for name in ("kind", *BUILT)})
            else:
                perform(self.pair, self.write)
        except Exception as error:
            wrong = None if isinstance(error, OSError) else one_line(error)
            return str(error), [wrong] if wrong else []
        return None, []

    def close(self) -> None:
        """Close the writer, which may fail on a failing disk."""
        if self.operation != "build":
            with contextlib.suppress(DualityError, OSError):
                self.pair.close()

    def reopened(self, failed: bool) -> list[str]:
        """What is wrong after reopening: neither old nor new state, or a success that is not there."""
        try:
            with Pair.open(self.folder, "w") as pair:
                found = held_by(pair)
                problems = search_problems(pair, found)
            problems += [f"verify: {line}" for line in verify_folder(self.folder)]
        except (DualityError, OSError) as error:
            return [f"does not open: {error}"]
        if found not in ([self.old, self.new] if failed else [self.new]):
            problems += differences(found, self.old if failed else self.new)
        return problems


def sweep(emit: Emit, base: str, folder: str, operation: str, kind: str, mode: int) -> dict[str, Any]:
    """Fail every call of an operation in turn.

    Returns:
        calls: how many there are; failed: of how many cases the operation raised; problems.
    """
    problems: list[str] = []
    failed = 0
    for at in itertools.count(1):
        assert at < MOST_CALLS, "the operation makes more and more calls"
        case = Case(Path(base), Path(folder), operation, kind)
        arm(mode, at, at)
        message, found = case.act()
        _, fired = disarm()
        failed += message is not None
        case.close()
        found += case.reopened(message is not None)
        problems += [f"{fired}: {problem}" for problem in found]
        if not fired:
            return {"calls": at - 1, "failed": failed, "problems": problems}
    raise AssertionError


def close_on_full_disk(emit: Emit, base: str, folder: str, mode: int) -> list[str]:
    """Fail every call of a close in turn: what was acknowledged before must stay."""
    problems: list[str] = []
    for at in range(1, MOST_CALLS):
        case = Case(Path(base), Path(folder), "upsert", "exact")
        assert case.act() == (None, [])
        arm(mode, at, at)
        case.close()
        _, fired = disarm()
        problems += [f"{fired}: {problem}" for problem in case.reopened(failed=False)]
        if not fired:
            break
    return problems


def failing_sync(emit: Emit, base: str, folder: str, mode: int) -> dict[str, Any]:
    """Fail every sync of an upsert in turn; then write on with a disk that works again.

    Returns:
        syncs: how many an upsert makes; problems.
    """
    problems: list[str] = []
    for at in range(1, MOST_CALLS):
        case = Case(Path(base), Path(folder), "upsert", "exact")
        arm(mode, at, at)
        message, wrong = case.act()
        _, fired = disarm()
        problems += wrong
        if not fired:
            return {"syncs": at - 1, "problems": problems}
        if message is None:
            problems.append(f"{fired}: the upsert was acknowledged")
        elif _still_writes(case.pair):
            problems.append(f"{fired}: the open writer takes further writes")
            continue
        case.close()
        problems += [f"{fired}: {problem}" for problem in case.reopened(message is not None)]
        problems += _writes_again(case)
    raise AssertionError


def _still_writes(pair: Pair) -> bool:
    try:
        pair.items.upsert(["i999"], vectors_for(1, 1), attribute_table(["year"], 1, 1))
    except DualityError:
        return False
    return True


def _writes_again(case: Case) -> list[str]:
    try:
        with Pair.open(case.folder, "w") as pair:
            pair.items.upsert(["again"], np.ones((1, pair.dim), np.float32))
        with Pair.open(case.folder) as pair:
            return [] if pair.items.get(["again"])[0] else ["a write after reopening is not there"]
    except (DualityError, OSError) as error:
        return [f"no write after reopening: {error}"]
