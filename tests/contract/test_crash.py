"""Random writes by a process that is killed, dies in a call to the disk or loses power, again and again.

After each death the index must open and hold every acknowledged write, and the one in flight whole
or not at all. The state is carried from round to round, so that damage adds up if there is any.

DUALITY_CRASH_ROUNDS  rounds in all (30)
DUALITY_CRASH_SEED    of everything random (1)
DUALITY_CRASH_REPLAY  a folder that a failed round left: runs that round alone, from where it began
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from contract_agents import DIE, POWER, Agent
from contract_checks import differences, search_problems
from contract_states import (
    SIDES,
    State,
    applied,
    build_index,
    built_state,
    from_json,
    held_by,
    rows_of,
    to_json,
)

from duality.errors import DualityError
from duality.index.pair import Pair, verify_folder

ROUNDS = int(os.environ.get("DUALITY_CRASH_ROUNDS", "30"))
SEED = int(os.environ.get("DUALITY_CRASH_SEED", "1"))
REPLAY = os.environ.get("DUALITY_CRASH_REPLAY", "")
KINDS = ("exact", "ivf", "hnsw")
WAYS = ("call", "kill", "power", "kill", "build", "kill")


class Outcome:
    """What the writer was told before it died."""

    def __init__(self, state: State) -> None:
        self.acknowledged, self.flying, self.writes = state, None, 0

    def hear(self, message: dict[str, Any]) -> None:
        """Follow one message of the writer."""
        if "try" in message:
            self.flying = message["try"]
        elif "ack" in message:
            self.acknowledged, self.flying = applied(self.acknowledged, self.flying), None
            self.writes += 1
        elif "error" in message:
            raise AssertionError(f"the writer failed instead of dying: {message['error']}")

    def candidates(self) -> list[State]:
        """States that the index may be in."""
        whole = [applied(self.acknowledged, self.flying)] if self.flying else []
        return [self.acknowledged, *whole]


def until_death(agent: Agent, folder: Path, state: State, kind: str, number: int, seed: int) -> Outcome:
    """One round of writing; the way of dying goes by its number."""
    rng, way = random.Random(f"{seed} {kind} {number}"), WAYS[number % len(WAYS)]
    held = folder.parent / "state.json"
    held.write_text(to_json(state))
    arguments: dict[str, Any] = {"folder": str(folder), "state": str(held), "seed": rng.randrange(1 << 30)}
    at = round(2 ** rng.uniform(2, 11))
    mode = {"kill": 0, "power": POWER}.get(way, DIE)
    first = []
    if way == "build":
        items = rng.randrange(1, 120)
        first = [{"verb": "build", "kind": kind, "seed": rng.randrange(1 << 30), "users": 20, "items": items}]
    outcome, timer, pid = Outcome(state), None, 0
    for message in agent.stream("crash_writer:write_until_dead", mode=mode, at=at, first=first, **arguments):
        pid = message.get("pid", pid)
        if "open" in message and way == "kill":
            timer = threading.Timer(2 ** rng.uniform(-9, 0), _kill, [pid])
            timer.start()
        if "exit" in message and timer:
            timer.cancel()
        outcome.hear(message)
    return outcome


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def after_death(folder: Path, outcome: Outcome, seed: int) -> tuple[State | None, Counter[str], list[str]]:
    """What the index holds now, what is wrong by kind of wrong, and the details."""
    try:
        with Pair.open(folder) as pair:
            found, names = held_by(pair), set(pair.snapshots())
    except (DualityError, OSError) as error:
        return None, Counter({"failed opens": 1}), [f"{type(error).__name__}: {error}"]
    candidates = [one for one in outcome.candidates() if rows_of(one) == found]
    if not candidates:
        touched = set(outcome.flying.get("ids", [])) if outcome.flying else set()
        what = (
            "partial batches"
            if changed(outcome.acknowledged, found) <= touched
            else "lost acknowledged writes"
        )
        return None, Counter({what: 1}), differences(found, outcome.acknowledged)
    state = settled([one for one in candidates if set(one.get("kept", {})) == names])
    if state is None:
        return None, Counter({"lost acknowledged writes": 1}), [f"snapshots {sorted(names)} are there"]
    try:
        with Pair.open(folder, "w") as pair:
            details = differences(held_by(pair), found) + search_problems(pair, found, seed)
        details += [f"verify: {line}" for line in verify_folder(folder)]
    except (DualityError, OSError) as error:
        return None, Counter({"failed opens": 1}), [f"for writing: {type(error).__name__}: {error}"]
    return state, Counter({"wrong answers or reports": 1} if details else {}), details


def changed(before: State, after: State) -> set[str]:
    """Ids whose rows differ."""
    sides = [(before[side], after[side]) for side in SIDES]
    return {id for old, new in sides for id in old.keys() | new.keys() if old.get(id) != new.get(id)}


def settled(candidates: list[State]) -> State | None:
    """The state that the index is in; None when there is no candidate.

    Two that hold the same rows may still lead back to different ones: then the way back is unknown.
    """
    if not candidates:
        return None
    if all(one.get("previous") == candidates[0].get("previous") for one in candidates):
        return candidates[0]
    return {name: held for name, held in candidates[0].items() if name != "previous"}


def start(folder: Path, kind: str) -> State:
    """A new index and what it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    build_index(folder, kind, 5, 30, 120)
    return built_state(5, 30, 120)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_writer_loses_nothing_acknowledged(
    kind: str, failing: Agent, scratch: Path, tmp_path: Path
) -> None:
    folder, kept = scratch / "arena" / "index", tmp_path / "failed"
    folder.parent.mkdir()
    state, wrong, report, writes = start(folder, kind), Counter[str](), [], 0
    for number in range(-(-ROUNDS // len(KINDS))):
        before = Path(shutil.copytree(folder, scratch / "before"))
        outcome = until_death(failing, folder, state, kind, number, SEED)
        writes += outcome.writes
        found, problems, details = after_death(folder, outcome, number)
        if problems:
            wrong += problems
            left = Path(shutil.move(before, kept / f"{number}" / "index"))
            what = {"kind": kind, "number": number, "seed": SEED, "state": to_json(state)}
            (left.parent / "round.json").write_text(json.dumps(what))
            line = f"round {number} ({WAYS[number % len(WAYS)]}), DUALITY_CRASH_REPLAY={left.parent}"
            report.append(f"{line}: {'; '.join(details)[:600]}")
        else:
            shutil.rmtree(before)
        state = start(folder, kind) if found is None else found
    counts = {name: wrong[name] for name in ("lost acknowledged writes", "partial batches", "failed opens")}
    summary = f"{kind}: {number + 1} deaths after {writes} acknowledged writes: {counts | dict(wrong)}"
    print(summary)
    assert not wrong, "\n".join([summary, f"DUALITY_CRASH_SEED={SEED}", *report])
    assert writes > number, f"{summary}: too few writes to prove anything"


@pytest.mark.skipif(not REPLAY, reason="runs a round again: DUALITY_CRASH_REPLAY names the folder it left")
def test_replay(failing: Agent, scratch: Path) -> None:
    what = json.loads((Path(REPLAY) / "round.json").read_text())
    folder = Path(shutil.copytree(Path(REPLAY) / "index", scratch / "arena" / "index"))
    state = from_json(what["state"])
    outcome = until_death(failing, folder, state, what["kind"], what["number"], what["seed"])
    _, problems, details = after_death(folder, outcome, what["number"])
    assert not problems, "\n".join(details)
