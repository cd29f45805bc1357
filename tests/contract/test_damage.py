"""Flipped bits, truncations and hostile files: found or harmless, never served, never a crash.

DUALITY_DAMAGE_ROUNDS  flips and truncations in all (200)
DUALITY_DAMAGE_SEED    of their places (1)
"""

from __future__ import annotations

import itertools
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_agents import Agent
from contract_states import COLUMNS, applied, build_index, built_state, from_json, perform, to_json
from damage_jobs import DERIVED, HOSTILE, files_of

from duality.index.pair import Pair

ROUNDS = int(os.environ.get("DUALITY_DAMAGE_ROUNDS", "200"))
SEED = int(os.environ.get("DUALITY_DAMAGE_SEED", "1"))
# Enough items that some pages of records are in no log.
BUILT = {"seed": 5, "users": 20, "items": 200}
WRITES = [
    {"verb": "upsert", "side": "items", "ids": [f"i{n}" for n in range(0, 130, 7)], "seed": 3},
    {"verb": "delete", "side": "items", "ids": [f"i{n}" for n in range(3, 60, 9)]},
    {"verb": "upsert", "side": "users", "ids": ["u1", "u30"], "seed": 4},
]
SHAPES = {"exact closed": ("exact", False), "ivf live": ("ivf", True), "hnsw live": ("hnsw", True)}


@pytest.fixture(params=SHAPES)
def index(request: pytest.FixtureRequest, scratch: Path, agent: Agent) -> tuple[Path, Path]:
    """An index folder (closed, or with the log of a killed writer) and a file with its state."""
    kind, live = SHAPES[request.param]
    folder, state = scratch / "index", built_state(**BUILT)
    build_index(folder, kind, **BUILT)
    writes = [{**write, "columns": COLUMNS, "vectors": True} for write in WRITES]
    for write in writes:
        state = applied(state, write)
    held = scratch / "state.json"
    held.write_text(to_json(state))
    with Pair.open(folder, "w") as pair:
        perform(pair, writes[0])
        pair.items.snapshot()
    writes = writes[1:]
    if live:
        last = {"folder": str(folder), "copy": str(scratch / "copy"), "writes": writes, "at": 0}
        assert list(agent.stream("crash_writer:write_and_die_in_the_last", **last))[-1] == {"exit": 137}
    else:
        with Pair.open(folder, "w") as pair:
            for write in writes:
                perform(pair, write)
    return folder, held


def flips_and_cuts(folder: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Random damage to random files."""
    rng = random.Random(seed)
    files = {name: (folder / name).read_bytes() for name in files_of(folder)}
    # Most files are derived; the records and what guards them come four times as often.
    names = [name for name, data in files.items() if data for _ in range(1 if DERIVED.search(name) else 4)]
    cases = []
    for _ in range(rounds):
        name, how = rng.choice(names), rng.choice(["flip", "flip", "cut"])
        data = files[name]
        if how == "cut":
            at = rng.randrange(len(data))
        else:
            place = rng.choice([anywhere, not_empty, near_a_record])
            at = 8 * place(data, rng) + rng.randrange(8)
        cases.append({"file": name, "how": how, "at": at, "mode": rng.choice("rw")})
    return cases


def anywhere(data: bytes, rng: random.Random) -> int:
    """An offset."""
    return rng.randrange(len(data))


def not_empty(data: bytes, rng: random.Random) -> int:
    """An offset of a byte that is not 0, where there is one: pages are mostly empty."""
    places = np.flatnonzero(np.frombuffer(data, np.uint8))
    return int(rng.choice(places)) if len(places) else anywhere(data, rng)


def near_a_record(data: bytes, rng: random.Random) -> int:
    """An offset in or beside a stored record, where there is one."""
    side = rng.choice("ui")
    places = [match.start() for match in re.finditer(rf"{side}\d\d?".encode(), data)]
    around = (rng.choice(places) if places else anywhere(data, rng)) + rng.randrange(-30, 120)
    return min(max(around, 0), len(data) - 1)


def shown(problems: list[str], cases: int) -> str:
    """The first problems, one a line."""
    return "\n".join([f"{len(problems)} problems in {cases} cases", *problems[:15]])


def test_damage_is_found_or_harmless(index: tuple[Path, Path], agent: Agent, scratch: Path) -> None:
    cases = flips_and_cuts(index[0], -(-ROUNDS // len(SHAPES)), SEED)
    places = {"base": str(index[0]), "state": str(index[1]), "folder": str(scratch / "damaged")}
    problems = agent.run_cases("damage_jobs:examine", cases, **places)
    assert not problems, shown(problems, len(cases))


@pytest.mark.parametrize("index", ["exact closed", "ivf live"], indirect=True)
def test_every_bit_around_a_record_counts(index: tuple[Path, Path], agent: Agent, scratch: Path) -> None:
    """A flip that moves a row out of a filter shows in no row that is read: only a check of all finds it."""
    rows = from_json(index[1].read_text())["items"]
    # The last one is in no log: a flip in a page that the log holds as well would change nothing.
    vector = [vector for vector, held in rows.values() if held.get("year", 0) >= 1950][-1]
    cases = []
    for name in files_of(index[0]):
        data = (index[0] / name).read_bytes()
        assert not name.endswith("-wal") or vector not in data
        start = data.find(vector)
        if start >= 0 and not DERIVED.search(name):
            bits = range(8 * max(0, start - 40), 8 * min(len(data), start + len(vector) + 60))
            cases += [{"file": name, "how": "flip", "at": bit, "mode": "rw"[bit % 2]} for bit in bits]
    assert cases, "no file holds the record"
    chosen = random.Random(SEED).sample(cases, min(len(cases), ROUNDS // 2))
    places = {"base": str(index[0]), "state": str(index[1]), "folder": str(scratch / "damaged")}
    problems = agent.run_cases("damage_jobs:examine", chosen, **places)
    assert not problems, shown(problems, len(chosen))


@pytest.mark.parametrize("index", ["exact closed", "ivf live"], indirect=True)
def test_hostile_files_neither_crash_nor_hang(index: tuple[Path, Path], agent: Agent, scratch: Path) -> None:
    names = files_of(index[0])
    if any(name.endswith("-wal") for name in names):
        # What is derived is the same as without a log.
        names = [name for name in names if not DERIVED.search(name)]
    pairs = itertools.product(names, HOSTILE)
    cases = [{"file": file, "how": how, "mode": "rw"[number % 2]} for number, (file, how) in enumerate(pairs)]
    places = {"base": str(index[0]), "state": str(index[1]), "folder": str(scratch / "damaged")}
    problems = agent.run_cases("damage_jobs:examine", cases, **places)
    assert not problems, shown(problems, len(cases))


def test_an_undamaged_index_has_no_problems(index: tuple[Path, Path], agent: Agent, scratch: Path) -> None:
    whole = [
        {"file": "index.json", "how": "cut", "at": (index[0] / "index.json").stat().st_size, "mode": "r"}
    ]
    places = {"base": str(index[0]), "state": str(index[1]), "folder": str(scratch / "whole")}
    assert agent.run_cases("damage_jobs:examine", whole, **places) == []
