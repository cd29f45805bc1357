"""All users of a run as arrays on disk, in the order of their ids: read from the index once, then by any number of
processes.

Writes: a folder with `vectors.f32` (float32 [U, D], little-endian), `ids.arrow` (one column) and `population.json`.
Cost:   4 D bytes a user and their ids on disk; one block of vectors in memory.
Shapes: U users, D dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import read_json, write_json
from duality.errors import DataError, InputError
from duality.targeting.index_protocol import UserSource

if TYPE_CHECKING:
    import pyarrow as pa

# Users that are scored together. Products and sums are those of whole blocks, so that they do not
# depend, to the last bit, on how blocks are divided among processes. Larger ones leave the caches.
BLOCK = 8_192
SAMPLE = 200_000  # users who stand for all where there are more: for means, curves and thresholds
SPARSE = 256  # users for each row asked for, beyond which a read per row is faster than reading all
VECTORS, IDS, RATES, ABOUT = "vectors.f32", "ids.arrow", "rates.npy", "population.json"


class Population:
    """Users of a folder that `gather` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = read_json(folder / ABOUT, what="users of a run", make="duality target score")
        self.count, self.dim = int(about["users"]), int(about["dim"])

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """U strings, ascending; mapped, not read."""
        import pyarrow as pa

        return pa.ipc.open_file(pa.memory_map(str(self.folder / IDS))).read_all().column("id")

    @cached_property
    def rates(self) -> np.ndarray:
        """float32 [U], added to every value; mapped. There where `add_rates` wrote it."""
        return np.load(self.folder / RATES, mmap_mode="r")

    def add_rates(self, rates: Callable[[list[str]], np.ndarray]) -> None:
        """Write what `rates` gives for ids, float32 [n], a block at a time."""
        found = np.lib.format.open_memmap(self.folder / RATES, "w+", np.float32, (self.count,))
        for number in range(self.num_blocks):
            rows = self.rows(number)
            found[rows] = rates(self.ids[rows].to_pylist())
        found.flush()

    @property
    def num_blocks(self) -> int:
        return -(-self.count // BLOCK)

    @property
    def block_size(self) -> int:
        return BLOCK

    def rows(self, number: int) -> slice:
        """Rows of a block."""
        return slice(number * BLOCK, min(self.count, (number + 1) * BLOCK))

    def block(self, number: int) -> tuple[slice, np.ndarray]:
        """Rows of a block and their vectors, float32 [n, D]: read, since mapped pages would count as this process's memory."""
        rows = self.rows(number)
        size = (rows.stop - rows.start) * self.dim
        vectors = np.fromfile(self.folder / VECTORS, "<f4", size, offset=4 * rows.start * self.dim)
        return rows, vectors.reshape(-1, self.dim)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, D] of rows int64 [n]; read row by row where they are few, else block by block."""
        found = np.empty((len(rows), self.dim), np.float32)
        if len(rows) * SPARSE < self.count:
            width = 4 * self.dim
            with open(self.folder / VECTORS, "rb", buffering=0) as file:
                for place, row in enumerate(rows.tolist()):
                    found[place] = np.frombuffer(os.pread(file.fileno(), width, row * width), "<f4")
            return found
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], np.arange(self.num_blocks + 1) * BLOCK)
        for number, (first, last) in enumerate(pairwise(ends.tolist())):
            if first < last:
                part, vectors = self.block(number)
                found[order[first:last]] = vectors[rows[order[first:last]] - part.start]
        return found

    def names(self, rows: np.ndarray) -> list[str]:
        """Ids of rows int64 [n]."""
        import pyarrow as pa

        names: list[str] = self.ids.take(pa.array(rows, pa.int64())).to_pylist()
        return names

    def places(self, ids: Sequence[str]) -> np.ndarray:
        """For every user their place among `ids`, int64 [U], or -1; a repeated id counts where it stands first."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(self.ids, value_set=pa.array(ids, self.ids.type))
        return found.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def among(self, ids: Iterable[str]) -> np.ndarray:
        """bool [U]: who stands in a list of ids."""
        return self.places(list(ids)) >= 0

    @cached_property
    def sample(self) -> np.ndarray:
        """Rows int64 [n] of the users who stand for all: every so-manieth, or all of them."""
        return np.arange(0, self.count, -(-self.count // SAMPLE))

    @property
    def sampled(self) -> bool:
        """Whether there are more users than the sample holds."""
        return len(self.sample) < self.count


def gather(users: UserSource, folder: Path) -> Population:
    """Write the users of an index into `folder`, which exists.

    Raises:
        InputError: there is no user.
        DataError: the source does not give its users in the order of their ids.
    """
    import pyarrow as pa

    count, dim, last = 0, 0, ""
    schema = pa.schema([("id", pa.large_string())])
    with (
        open(folder / VECTORS, "wb") as file,
        pa.OSFile(str(folder / IDS), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for ids, vectors in users.blocks():
            if not ids:
                continue
            names = pa.array(ids, pa.large_string())
            if (last >= ids[0] and count) or not _ascending(names):
                raise DataError(f"users do not come in the order of their ids, near {ids[0]}")
            writer.write_batch(pa.record_batch([names], schema))
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            count, dim, last = count + len(ids), vectors.shape[1], ids[-1]
    if not count:
        raise InputError("the index holds no users: build it with both sides before targeting")
    write_json(folder / ABOUT, {"users": count, "dim": dim})
    return Population(folder)


def _ascending(names: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.less(names[:-1], names[1:])).as_py()) if len(names) > 1 else True
