"""Operations that replace one state of an index by another, killed at one of their calls to the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract_agents import arm, disarm
from contract_states import COLUMNS, State, applied, build_index, built_state, perform

from duality.index.pair import Pair

Emit = Callable[[dict[str, Any]], None]
FIRST, SECOND, THIRD = [{"seed": seed, "users": 8, "items": 20} for seed in (5, 50, 500)]
CHANGE = {
    "verb": "upsert",
    "side": "items",
    "ids": ["i1", "i2", "i90"],
    "seed": 3,
    "columns": COLUMNS,
    "vectors": True,
}


def prepared(folder: Path, kind: str) -> State:
    """An index with a generation before, and a snapshot of an earlier state; what it holds."""
    build_index(folder, kind, **FIRST)
    build_index(folder, kind, **SECOND)
    with Pair.open(folder, "w") as pair:
        pair.create_snapshot("early")
        perform(pair, CHANGE)
    return applied(built_state(**SECOND), CHANGE)


def after(operation: str, before: State) -> State:
    """What the index holds once the operation is done."""
    states = {
        "build": built_state(**THIRD),
        "restore": built_state(**SECOND),
        "rollback": built_state(**FIRST),
    }
    return states.get(operation, before)


def operate(emit: Emit, folder: str, kind: str, operation: str, mode: int, at: int) -> int:
    """Do it with a failing call; how many calls it made, if it survived."""
    place = Path(folder)
    if operation == "build":
        arm(mode, at, at)
        build_index(place, kind, **THIRD)
        return disarm()[0]
    arm(mode, at, at)
    with Pair.open(place, "w") as pair:
        if operation == "snapshot":
            pair.create_snapshot("late")
        elif operation == "restore":
            pair.restore_snapshot("early")
        elif operation == "compact":
            pair.items.compact()
        else:
            pair.rollback()
    return disarm()[0]
