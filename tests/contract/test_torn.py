"""A file cut at every byte: every acknowledged row is served, or the damage is named; never less.

DUALITY_TORN_ALL=1  cuts what was written last (log and head) at every byte, each other file at 300;
                    else the last 400 bytes and 200 others of the former, a dozen of the latter
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from contract_agents import Agent
from contract_states import COLUMNS, applied, build_index, built_state, to_json
from damage_jobs import files_of

ALL = os.environ.get("DUALITY_TORN_ALL") == "1"
BUILT = {"seed": 5, "users": 6, "items": 20}
WRITES = [
    {"verb": "upsert", "side": "items", "ids": ["i2", "i50", "i51"], "seed": 3},
    {"verb": "delete", "side": "items", "ids": ["i4", "i50"]},
    {"verb": "upsert", "side": "users", "ids": ["u1", "u9"], "seed": 4},
    {"verb": "upsert", "side": "items", "ids": ["i51", "i60", "i61"], "seed": 6},
]
LAST = {"verb": "upsert", "side": "items", "ids": ["i1", "i61", "i70", "i71"], "seed": 7}
FILL = {"columns": COLUMNS, "vectors": True}


class Killed:
    """An index whose writer died in its last write.

    Args:
        agent: one with fault.c.
        root: a folder to make.
        at: at which call it died; 0 for after it, when it was acknowledged.
    """

    def __init__(self, agent: Agent, root: Path, at: int) -> None:
        self.folder, self.before = root / "index", root / "before"
        root.mkdir(parents=True)
        build_index(self.folder, "exact", **BUILT)
        writes = [{**write, **FILL} for write in [*WRITES, LAST]]
        state, self.states = built_state(**BUILT), []
        for number, write in enumerate(writes):
            state = applied(state, write)
            self.states = [*self.states[-1:], str(root / f"{number}.json")]
            Path(self.states[-1]).write_text(to_json(state))
        arguments = {"folder": str(self.folder), "copy": str(self.before), "writes": writes, "at": at}
        messages = list(agent.stream("crash_writer:write_and_die_in_the_last", **arguments))
        assert messages[-1] == {"exit": 137}, json.dumps(messages)
        self.survived = {"survived": True} in messages

    def grown(self) -> dict[str, int]:
        """Files that the last write appended to, and how long they were before it."""
        lengths = {}
        for name in files_of(self.folder):
            held = (self.before / name).read_bytes() if (self.before / name).exists() else b""
            whole = (self.folder / name).read_bytes()
            if len(whole) > len(held) and whole.startswith(held):
                lengths[name] = len(held)
        return lengths

    def changed(self) -> list[str]:
        """Files that the last write made or changed."""
        names = [name for name in files_of(self.folder) if not name.endswith(("-shm", ".lock"))]
        whole = {name: (self.folder / name).read_bytes() for name in names}
        before = {name: (self.before / name).read_bytes() for name in files_of(self.before)}
        return [name for name in names if whole[name] != before.get(name)]

    def changed_in_place(self) -> bool:
        """Whether the last write came as far as changing a file that counts in place."""
        return bool(set(self.changed()) - self.grown().keys())


def cuts(file: str, sizes: list[int]) -> list[dict[str, Any]]:
    """A case per size, opened for reading and for writing in turn."""
    return [
        {"file": file, "how": "cut", "at": size, "mode": "rw"[number % 2]}
        for number, size in enumerate(sizes)
    ]


def chosen(size: int, tail: int, others: int) -> list[int]:
    """Sizes to cut a file of `size` bytes to."""
    if size <= tail + others:
        return list(range(size))
    return sorted({*random.Random(size).sample(range(size), others), *range(size - tail, size)})


def shown(problems: list[str], cases: int) -> str:
    """The first problems, one a line."""
    return "\n".join([f"{len(problems)} problems in {cases} cuts", *problems[:12]])


def test_a_cut_into_acknowledged_bytes_is_found(failing: Agent, agent: Agent, scratch: Path) -> None:
    killed = Killed(failing, scratch / "arena", at=0)
    folder, cases = killed.folder, []
    names = [name for name in files_of(folder) if (folder / name).stat().st_size]
    last = killed.changed()
    assert last, "an acknowledged write changed no file"
    for name in names:
        size = (folder / name).stat().st_size
        written_last = (size, 0) if ALL else (400, 200)
        other = (100, 200) if ALL else (4, 8)
        cases += cuts(name, chosen(size, *(written_last if name in last else other)))
    places = {"base": str(folder), "folder": str(scratch / "torn")}
    problems = agent.run_cases("damage_jobs:tear", cases, states=killed.states[-1:], named=True, **places)
    print(f"{len(cases)} cuts of {len(names)} files; last written: {', '.join(last)}")
    assert not problems, shown(problems, len(cases))


def test_a_cut_into_a_write_in_flight_loses_nothing_else(failing: Agent, agent: Agent, scratch: Path) -> None:
    tried = 0
    for at in range(1, 200):
        killed = Killed(failing, scratch / f"arena{at}", at)
        cases = []
        for name, length in killed.grown().items():
            more = (killed.folder / name).stat().st_size - length
            cases += cuts(name, [length + size for size in chosen(more, 2, 10)])
        tried += len(cases)
        places = {"base": str(killed.folder), "folder": str(scratch / "torn")}
        # Once the write also stands somewhere else, cutting it off may be taken for damage.
        named = killed.changed_in_place()
        problems = agent.run_cases("damage_jobs:tear", cases, states=killed.states, named=named, **places)
        assert not problems, f"died at call {at}: {shown(problems, len(cases))}"
        if killed.survived:
            break
    assert tried, "no file grew while a write was in flight"
