"""Death in the middle of build, restore, rollback, snapshot and compact: the old state or the new, whole.

DUALITY_SWITCH_ALL=1  dies at every call to the disk, both killed and without power; else at some
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from contract_agents import COUNT, DIE, POWER, Agent, JobEnded
from contract_checks import differences, search_problems
from contract_states import held_by
from switch_jobs import after, prepared

from duality.errors import DualityError
from duality.index.pair import Pair, verify_folder

ALL = os.environ.get("DUALITY_SWITCH_ALL") == "1"
SAMPLE = 8
OPERATIONS = ("build", "restore", "rollback", "snapshot", "compact")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_death_while_switching_leaves_old_or_new(operation: str, failing: Agent, scratch: Path) -> None:
    base, folder = scratch / "base", scratch / "arena" / "index"
    old = prepared(base, "ivf")
    new = after(operation, old)

    def operate(mode: int, at: int) -> int:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        where = {"folder": str(folder), "kind": "ivf", "operation": operation}
        return failing.call("switch_jobs:operate", fork=True, mode=mode, at=at, **where)

    calls = operate(COUNT, 0)
    with Pair.open(folder) as pair:
        assert held_by(pair) == new, "the operation does not lead where it should"
    points = [(mode, at) for mode in (DIE, POWER) for at in range(1, calls + 1)]
    # The last calls are where the switch is: they are always among the chosen.
    chosen = points if ALL else random.Random(calls).sample(points, min(SAMPLE, len(points)))
    chosen += [] if ALL else [(DIE, at) for at in range(max(1, calls - 4), calls + 1)]
    problems, switched, survived = [], 0, 0
    for mode, at in chosen:
        try:
            # How many pages a log takes may differ by one or two from run to run.
            survived += operate(mode, at) > 0
        except JobEnded as ended:
            if "137" not in str(ended):
                raise
        found, wrong = opened(folder)
        if not wrong and found not in (old, new):
            wrong = differences(found, old)
        switched += found == new
        problems += [f"{'power' if mode == POWER else 'death'} at call {at}: {line}" for line in wrong]
    print(f"{operation}: {calls} calls, {len(chosen)} deaths, {switched} with the new state")
    assert survived <= len(chosen) / 4
    assert not problems, "\n".join([f"{len(problems)} problems in {len(chosen)} deaths", *problems[:12]])


def opened(folder: Path) -> tuple[object, list[str]]:
    """What an index holds, and what is wrong with it, opened for reading and then for writing."""
    try:
        with Pair.open(folder) as pair:
            found = held_by(pair)
            wrong = search_problems(pair, found)
        with Pair.open(folder, "w") as pair:
            wrong += differences(held_by(pair), found)
            names = pair.snapshots()
            if "early" not in names:
                wrong.append("the snapshot made before is gone")
            for name in names:
                pair.restore_snapshot(name)
        wrong += [f"verify: {line}" for line in verify_folder(folder)]
    except DualityError as error:
        return None, [f"does not open: {error}"]
    return found, wrong
