"""The process that writes until it dies, and says before and after each write what it does."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contract_agents import DIE, arm
from contract_states import State, applied, from_json, perform, random_write

from duality.index.pair import Pair

Emit = Callable[[dict[str, Any]], None]
MOST_WRITES = 400


def write_until_dead(
    emit: Emit,
    folder: str,
    state: str,
    seed: int,
    mode: int,
    at: int,
    first: list[dict[str, Any]] | None = None,
) -> str:
    """Open for writing and write at random: {"try": write}, then {"ack": its number}.

    Args:
        emit: sends a message to the test.
        folder: the index.
        state: a file with what the index holds.
        seed: chooses the writes.
        mode: of fault.c; 0 for none.
        at: which call fails.
        first: writes to start with.
    """
    rng = random.Random(seed)
    held: State = from_json(Path(state).read_text())
    if mode:
        arm(mode, at, seed)
    pair = Pair.open(folder, "w")
    emit({"open": True})
    for number in range(MOST_WRITES):
        write = first[number] if first and number < len(first) else random_write(rng, held)
        emit({"try": write})
        pair = perform(pair, write)
        emit({"ack": number})
        held = applied(held, write)
        if rng.random() < 0.2:
            pair.items.search(np.ones((1, pair.dim), np.float32), 3)
    pair.close()
    return "closed"


def write_and_die_in_the_last(
    emit: Emit, folder: str, copy: str, writes: list[dict[str, Any]], at: int
) -> None:
    """Do all writes but the last, copy the folder as it is then, and die in the last at call `at`.

    With `at` 0 it dies after the last write. Emits {"survived": True} when that call never came.
    """
    pair = Pair.open(folder, "w")
    for write in writes[:-1]:
        pair = perform(pair, write)
    shutil.copytree(folder, copy)
    if at:
        arm(DIE, at, at)
    perform(pair, writes[-1])
    emit({"survived": True})
    os._exit(137)
