"""What one writer and several readers do beside each other; every row says which commit it is of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from contract_states import DIM

from duality.errors import DualityError
from duality.index.pair import Pair, build

Emit = Callable[[dict[str, Any]], None]
ROWS = 60
ASKED = np.eye(1, DIM, dtype=np.float32)


def stamped(number: int) -> tuple[list[str], np.ndarray, pa.Table]:
    """A batch whose every row carries `number`, as the vector's first value and as an attribute."""
    vectors = np.full((ROWS, DIM), 0.5, np.float32)
    vectors[:, 0] = number
    vectors[:, 1] = np.arange(ROWS)
    return [f"r{row}" for row in range(ROWS)], vectors, pa.table({"round": [number] * ROWS})


def build_stamped(folder: Path, kind: str, number: int) -> None:
    """An index whose both sides are of one commit."""
    ids, vectors, attributes = stamped(number)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    table = pa.table({"id": ids, "vector": lists, "round": attributes.column("round")})
    build(folder, table, table, spec=kind)


def write_on(emit: Emit, folder: str, kind: str, acknowledged: str, seconds: float, switching: bool) -> int:
    """Commit batch after batch, compact now and then, switch generations if asked; the last number.

    The number of the last acknowledged batch is in the file `acknowledged`.
    """
    number, until = 1, time.monotonic() + seconds
    pair = Pair.open(folder, "w")
    emit({"writing": os.getpid()})
    while time.monotonic() < until:
        number += 1
        if switching and number % 25 == 0:
            pair.close()
            build_stamped(Path(folder), kind, number)
            pair = Pair.open(folder, "w")
        else:
            ids, vectors, attributes = stamped(number)
            pair.items.upsert(ids, vectors, attributes)
        _note(Path(acknowledged), number)
        if number % 10 == 0:
            pair.items.compact()
    pair.close()
    return number


def _note(path: Path, number: int) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(str(number))
    temporary.replace(path)


def read_on(emit: Emit, folder: str, acknowledged: str, seconds: float) -> dict[str, Any]:
    """Read again and again while others write.

    Returns:
        reads; commits: how many different ones were seen; problems.
    """
    problems: list[str] = []
    seen: list[int] = []
    until = time.monotonic() + seconds
    with Pair.open(folder) as pair:
        emit({"reading": os.getpid()})
        while time.monotonic() < until and len(problems) < 20:
            # What was acknowledged before the reader follows must be there; read later, it may be of a switch.
            floor = int(Path(acknowledged).read_text())
            pair.refresh()
            listed = pair.items.list()
            rounds = {(record["attributes"]["round"], float(record["vector"][0])) for record in listed}
            names, scores = pair.items.search(ASKED, ROWS)
            found = {float(score) for score in scores[0]}
            if len(rounds) != 1 or len({*next(iter(rounds))}) != 1 or len(listed) != ROWS:
                problems.append(f"a list of {len(listed)} rows mixes commits {sorted(rounds)[:4]}")
                continue
            if len(found) != 1 or len(set(names[0])) != ROWS:
                problems.append(f"a search mixes commits: scores {sorted(found)[:4]}")
                continue
            seen += [int(next(iter(rounds))[0]), int(next(iter(found)))]
            if seen[-2] < floor or seen[-1] < seen[-2] or seen[-2] < max(seen[:-2], default=0):
                problems.append(
                    f"acknowledged {floor}, listed {seen[-2]}, searched {seen[-1]}, order {seen[-6:]}"
                )
    return {"reads": len(seen) // 2, "commits": len(set(seen)), "problems": problems}


def hold(emit: Emit, folder: str) -> None:
    """Open for writing and stay until killed."""
    pair = Pair.open(folder, "w")
    emit({"writing": os.getpid()})
    time.sleep(60)
    pair.close()


def try_to_write(emit: Emit, folder: str) -> str | None:
    """The message of the refusal to open for writing, or None."""
    try:
        Pair.open(folder, "w").close()
    except DualityError as error:
        return str(error)
    return None
