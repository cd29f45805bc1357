"""Erased means that no byte of the id, the vector or the attributes is left in any file of the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from contract_states import DIM, build_index, vectors_for

from duality.index.pair import Pair, verify_folder

NAMES = [f"Nîce-person-{row}-7f3a91" for row in range(3)]
NOTE = "a remark about the person that nobody else has"


def traces(folder: Path, ids: list[str], vectors: np.ndarray) -> list[str]:
    """Files that hold an id, a remark, or two neighbouring values of a vector.

    Two float32 values are 8 bytes: chance does not put them there, and a vector cut by a page
    boundary still shows.
    """
    needles = [id.encode() for id in ids] + [NOTE.encode()]
    for vector in vectors.astype("<f4"):
        data = vector.tobytes()
        needles += [data[start : start + 8] for start in range(0, len(data) - 7, 4)]
    return [
        f"{path.relative_to(folder)}: {needle[:40]!r}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for needle in needles
        if needle in path.read_bytes() or needle in str(path).encode()
    ]


def add(pair: Pair, vectors: np.ndarray) -> None:
    """The rows that are to go."""
    for side in (pair.users, pair.items):
        side.upsert(NAMES, vectors, pa.table({"note": [NOTE] * len(NAMES)}))


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw", "ivfpq", "sq8", "rabitq"])
def test_erased_rows_leave_no_trace(kind: str, scratch: Path) -> None:
    folder, vectors = scratch / "index", vectors_for(12, len(NAMES))
    build_index(folder, kind, 5, 30, 300)
    with Pair.open(folder, "w") as pair:
        add(pair, vectors)
        for side in (pair.users, pair.items):
            side.snapshot()
            side.delete([f"{side.name[0]}{row}" for row in range(0, 30, 3)])
        pair.create_snapshot("before")
        # Replaced and deleted rows must go as well: their bytes lie in free pages and logs.
        pair.items.upsert(NAMES[:1], vectors[:1] * 2)
        pair.items.delete(NAMES[1:2])
        pair.create_snapshot("after")
    assert traces(folder, NAMES, vectors), "the scan finds nothing even before"
    with Pair.open(folder, "w") as pair:
        counts = pair.users.count, pair.items.count
        assert pair.users.delete(NAMES, erase=True) == (3, [])
        assert pair.items.delete(NAMES, erase=True) == (2, [NAMES[1]])
        assert (pair.users.count, pair.items.count) == (counts[0] - 3, counts[1] - 2)
        assert traces(folder, NAMES, np.concatenate([vectors, vectors * 2])) == []
        found, _ = pair.items.search(vectors, 10)
        assert not {*found.ravel().tolist()} & {*NAMES}
    assert traces(folder, NAMES, np.concatenate([vectors, vectors * 2])) == []
    assert verify_folder(folder) == []
    with Pair.open(folder, "w") as pair:
        pair.restore_snapshot("before")
        assert pair.items.get(NAMES) == ([], NAMES)
        assert pair.items.count == counts[1] - 2
    assert verify_folder(folder) == []


def test_erasing_reaches_the_generation_before(scratch: Path) -> None:
    folder, vectors = scratch / "index", vectors_for(12, len(NAMES))
    build_index(folder, "exact", 5, 30, 60)
    with Pair.open(folder, "w") as pair:
        add(pair, vectors)
    build_index(folder, "exact", 9, 30, 60)
    assert traces(folder, NAMES, vectors), "the scan finds nothing in the generation before"
    with Pair.open(folder, "w") as pair:
        for side in (pair.users, pair.items):
            # Not stored in this generation, and erased from the other all the same.
            assert side.delete(NAMES, erase=True) == (0, NAMES)
        assert traces(folder, NAMES, vectors) == []
        pair.rollback()
        assert pair.items.get(NAMES)[0] == []
        assert pair.items.count == 60
    assert traces(folder, NAMES, vectors) == []
    assert verify_folder(folder) == []


def test_erasing_under_a_reader_is_complete_or_refused(scratch: Path) -> None:
    folder, vectors = scratch / "index", vectors_for(12, len(NAMES))
    build_index(folder, "exact", 5, 30, 60)
    with Pair.open(folder, "w") as pair:
        add(pair, vectors)
        with Pair.open(folder) as reader:
            assert len(reader.items.search(np.ones((1, DIM), np.float32), 3)[0][0]) == 3
            for side in (pair.users, pair.items):
                side.delete(NAMES, erase=True)
            assert traces(folder, NAMES, vectors) == []
            assert reader.items.get(NAMES)[0] == []
