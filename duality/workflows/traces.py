"""What is left of a user in the folders of a dataset, its models and an index: by looking up, and byte by byte.

Looked up are ids, in every version, table and record. Searched for among the bytes of all files are ids, if
they are long enough not to occur by chance, and the vectors that the index had of the user: those would also lie in
structures and in pages that nothing refers to any more.

Cost: reads every file of these folders once.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from duality.data.ids import Ids
from duality.index.pair import held_in_copies
from duality.model.folder import ModelFolder
from duality.model.forgetting import knows

LONG = 8  # bytes; shorter ids would be found in any file


@dataclass
class Places:
    """Folders that may hold a user.

    Args:
        dataset: of all versions; None if there is none.
        models, index: likewise.
    """

    dataset: Path | None = None
    models: list[Path] = field(default_factory=list)
    index: Path | None = None

    def folders(self) -> list[Path]:
        """All of them, once."""
        given = [self.dataset, *self.models, self.index]
        return list(dict.fromkeys(folder.resolve() for folder in given if folder is not None))


@dataclass(frozen=True)
class Search:
    """What a search came to.

    Args:
        files, bytes: how much was read.
        traces: what is left, one line each.
    """

    files: int
    bytes: int
    traces: list[str]


def traces(places: Places, users: Sequence[str], vectors: Iterable[np.ndarray] = ()) -> Search:
    """Look for users.

    Args:
        vectors: float32 [D] each, that the index had of them.
    """
    found = list(_known(places, users))
    needles = {user.encode(): f"the id '{user}'" for user in users if len(user.encode()) >= LONG}
    needles |= {np.ascontiguousarray(vector).tobytes(): "a vector of theirs" for vector in vectors}
    files = [file for folder in places.folders() for file in sorted(folder.rglob("*")) if file.is_file()]
    size = 0
    for file in files:
        size += file.stat().st_size
        found += [f"{file} holds {what}" for needle, what in needles.items() if _holds(file, needle)]
    return Search(len(files), size, found)


def _known(places: Places, users: Sequence[str]) -> Iterator[str]:
    """Where the users can be looked up."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if places.dataset is not None:
        for file in sorted(places.dataset.rglob("users.ids.bin")):
            if (Ids.open(file.parent, "users").find(list(users)) >= 0).any():
                yield f"{file} has them"
        for file in sorted(places.dataset.rglob("users.parquet")):
            ids = pq.read_table(file, columns=["id"])["id"]
            if pc.any(pc.is_in(ids.cast(pa.string()), value_set=pa.array(users))).as_py():
                yield f"{file} has them"
    for model in places.models:
        if any(knows(ModelFolder.open(model), user) for user in users):
            yield f"{model} knows them by id, or has states of an unfinished training"
    if places.index is not None:
        for folder in held_in_copies(places.index, "users", list(users)):
            yield f"{folder} has a record of them"


def _holds(file: Path, needle: bytes) -> bool:
    with open(file, "rb") as opened:
        try:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return False
        with content:
            return content.find(needle) >= 0
