"""Flipped bits, truncations and hostile files: found or harmless, never served, never a crash.

DUALITY_DAMAGE_ROUNDS  flips and truncations in all (200)
DUALITY_DAMAGE_SEED    of their places (1)
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path
from typing import Any

import pytest
from contract_agents import Agent
from contract_states import COLUMNS, applied, build_index, built_state, perform, to_json
from damage_jobs import HOSTILE, files_of

from duality.index.pair import Pair

ROUNDS = int(os.environ.get("DUALITY_DAMAGE_ROUNDS", "200"))
SEED = int(os.environ.get("DUALITY_DAMAGE_SEED", "1"))
BUILT = {"seed": 5, "users": 20, "items": 90}
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
        last = {"folder": str(folder), "copy": str(scratch / "copy"), "writes": [*writes, {}], "at": 0}
        assert list(agent.stream("crash_writer:write_and_die_in_the_last", **last))[-1] == {"exit": 137}
    else:
        with Pair.open(folder, "w") as pair:
            for write in writes:
                perform(pair, write)
    return folder, held


def flips_and_cuts(folder: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Random damage to random files."""
    rng = random.Random(seed)
    sizes = {name: (folder / name).stat().st_size for name in files_of(folder)}
    names = [name for name, size in sizes.items() if size]
    cases = []
    for _ in range(rounds):
        name, how = rng.choice(names), rng.choice(["flip", "flip", "cut"])
        at = rng.randrange(sizes[name] * (8 if how == "flip" else 1))
        cases.append({"file": name, "how": how, "at": at, "mode": rng.choice("rw")})
    return cases


def shown(problems: list[str], cases: int) -> str:
    """The first problems, one a line."""
    return "\n".join([f"{len(problems)} problems in {cases} cases", *problems[:15]])


def test_damage_is_found_or_harmless(index: tuple[Path, Path], agent: Agent, scratch: Path) -> None:
    cases = flips_and_cuts(index[0], -(-ROUNDS // len(SHAPES)), SEED)
    places = {"base": str(index[0]), "state": str(index[1]), "folder": str(scratch / "damaged")}
    problems = agent.run_cases("damage_jobs:examine", cases, **places)
    assert not problems, shown(problems, len(cases))


@pytest.mark.parametrize("index", ["exact closed", "ivf live"], indirect=True)
def test_hostile_files_neither_crash_nor_hang(index: tuple[Path, Path], agent: Agent, scratch: Path) -> None:
    pairs = itertools.product(files_of(index[0]), HOSTILE)
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
