"""Navigable graph: the fastest to search, slow to build and to change.

FAISS cannot remove from a graph, so removed vectors stay as stepping stones, hidden from results,
until `pack` leaves them out. It holds vectors of D + 1 values, all of one length (coarse.py says
why); a later vector longer than that is scored by hand as well.

Hazard: FAISS must not search while it inserts; `staging` inserts little at a time.

Shapes: N vectors, Q queries, k results, P positions, D dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.base import Arrays, Packed, Setting, Streamed, Structure
from duality.index.structures.candidates import Candidates
from duality.index.structures.checks import integer_in, keys_in, matrix_in, number_in, positions_in, refusing
from duality.index.structures.coarse import largest_length, lengthened
from duality.index.structures.graph import graph_in, new_graph, read_graph
from duality.index.structures.graph_filters import find_among, plan_graph
from duality.index.structures.graph_packing import compacted, fill_graph
from duality.index.structures.labels import Labels
from duality.index.structures.longer import Longer
from duality.index.structures.matrix import BLOCK_ROWS, Keys, Matrix, Matrix32
from duality.index.structures.plan import Plan
from duality.index.structures.reach import stand_ins
from duality.index.structures.results import Found
from duality.index.structures.sampling import depths, draw
from duality.index.structures.widths import Width, measure_widths

STEP_ROWS = 8
# Beyond this share of removed vectors a graph is built anew, not repaired: repairs cost recall
# (0.992 to 0.980 at a quarter removed) and, then, nearly as much time.
WORN = 0.15


class Hnsw(Structure):
    """A graph over positions. Made by `build` or `unpack`.

    Args:
        matrix: the vectors.
        labels: their keys.
        settings: `m`, `ef_construction`, `radius`, `built`, `reach`.
        graph: arrays that `graph_in` checked, put into FAISS by the first search.
        longer: int64, positions of vectors longer than the radius.
    """

    kind = "hnsw"

    def __init__(
        self, matrix: Matrix, labels: Labels, settings: Setting, graph: Arrays | None, longer: Keys
    ) -> None:
        super().__init__(matrix, labels, settings)
        self._index = new_graph(self.dim + 1, self.settings["m"], self.settings["ef_construction"])
        self._pending, self._mutex = graph, threading.Lock()
        self.longer = Longer(longer, settings["radius"])
        self.width = Width(self.settings)
        # FAISS parameter objects by ef: making one costs as much as a small search.
        self._by_ef: dict[int, Any] = {}
        self._alive: tuple[int, Candidates] | None = None

    @property
    def index(self) -> Any:
        """The FAISS graph, filled."""
        if self._pending is not None:
            with self._mutex:
                if self._pending is not None:
                    rows = lengthened(self.matrix.base, self.settings["radius"])
                    fill_graph(self._index, dict(self._pending), self.settings["m"], rows)
                    self._pending = None
        return self._index

    @classmethod
    def build(
        cls,
        settings: Setting,
        keys: Keys,
        vectors: Matrix32,
        *,
        queries: Matrix32 | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Link `vectors` [N, D], which stay where they are."""
        least = settings["ef_search"]
        chosen = {**settings, "radius": largest_length(vectors), "built": len(keys)}
        chosen["reach"] = [[10.0, float(least)]]
        structure = cls(Matrix(vectors), Labels(keys), chosen, None, np.empty(0, np.int64))
        for start in range(0, len(vectors), BLOCK_ROWS // 8):
            block = vectors[start : start + BLOCK_ROWS // 8]
            structure._index.add(lengthened(block, chosen["radius"]))
            if progress:
                progress(len(block))
        if len(vectors):
            families = stand_ins(vectors, queries)
            structure.settings["reach"] = measure_widths(structure.search_graph, vectors, families, least)
            structure.width = Width(structure.settings)
        return structure

    def search_graph(self, queries: Matrix32, k: int, ef: int) -> Found:
        """Best k positions per query, removed ones among them, as the graph finds them; -1 pads."""
        count, pointer = len(queries), faiss().swig_ptr
        extended = np.zeros((count, self.dim + 1), np.float32)
        extended[:, :-1] = queries
        scores, found = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        self.index.search_c(
            count, pointer(extended), k, pointer(scores), pointer(found), self._parameters(ef)
        )
        return scores, found

    def ef(self, rank: int, setting: Setting | None = None) -> int:
        """Candidates to keep while searching for the nearest `rank`."""
        if setting and setting.get("ef_search"):
            return max(int(setting["ef_search"]), rank)
        return self.width.ef(rank)

    def pack(self) -> Packed:
        live = self.labels.by_position >= 0
        order, settings = np.flatnonzero(live), dict(self.settings)
        if live.all():
            graph = dict(self._pending) if self._pending is not None else read_graph(self._index)
        else:
            settings["repaired"] = 0 if self._worn() else self._repaired()
            graph, order = compacted(self.index, live, settings, anew=self._worn())
        arrays: dict[str, NDArray[Any] | Streamed] = {
            "keys": self.labels.by_position[order],
            "matrix": Streamed(
                (len(order), self.dim), np.dtype(np.float32), lambda: self.matrix.blocks(order)
            ),
            "longer": self.longer.places(order),
            **graph,
        }
        return settings, arrays

    @classmethod
    def unpack(cls, settings: Setting, arrays: Arrays) -> Self:
        with refusing(cls.kind):
            keys = keys_in(arrays)
            matrix = matrix_in(arrays, len(keys))
            m = integer_in(settings, "m", 4, 128)
            integer_in(settings, "ef_construction", 8, 10_000)
            number_in(settings, "radius", 0, 1e30)
            integer_in({"repaired": 0, **settings}, "repaired", 0, 1 << 40)
            longer = positions_in(arrays, "longer", len(keys))
            graph = graph_in(arrays, len(keys), m)
            return cls(Matrix(matrix), Labels(keys), settings, graph, longer)

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self.width = Width(self.settings)

    def stale(self) -> str | None:
        too_long = self.longer.stale(self.count)
        if too_long:
            return too_long
        if self._worn():
            return f"{self._repaired():,} vectors removed since the graph of {self.count:,} was built"
        return None

    def staging(self, keys: Keys, vectors: Matrix32) -> Iterator[None]:
        keys, vectors = self._checked(keys, vectors)
        start = len(self.matrix)
        for row in range(0, len(keys), STEP_ROWS):
            self._insert(vectors[row : row + STEP_ROWS])
            if row + STEP_ROWS < len(keys):
                yield
        if len(keys):
            self.remove(keys)
            self.labels.name(start, keys)
            self.longer.saw(start, vectors)
            self._revision += 1
        yield

    def _repaired(self) -> int:
        """Vectors removed since the build."""
        return int(self.settings.get("repaired", 0)) + self.labels.dead

    def _worn(self) -> bool:
        return self._repaired() > WORN * self.count + 100

    def _insert(self, vectors: Matrix32) -> None:
        """Into the graph, without keys: searches pass through them and do not return them."""
        self.index.add(lengthened(vectors, self.settings["radius"]))
        self.matrix.append(vectors)
        self.labels.append_unnamed(len(vectors))
        self._revision += 1

    def _append(self, keys: Keys, vectors: Matrix32) -> None:
        raise AssertionError("staging inserts")

    def _erase(self, positions: Keys) -> None:
        self.longer.forget(positions)

    def _find(self, queries: Matrix32, k: int, setting: Setting | None) -> Found:
        if self.labels.dead:
            return find_among(self, queries, k, self._live(), setting)
        found = self.search_graph(queries, k, self.ef(k, setting))
        return self.longer.merge(self.matrix, queries, found, k)

    def _find_among(
        self, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
    ) -> Found:
        return find_among(self, queries, k, candidates, setting)

    def _plan(
        self, k: int, matches: int | None, queries: Matrix32 | None, candidates: Candidates | None
    ) -> Plan:
        return plan_graph(self, k, matches, queries, candidates)

    def _parameters(self, ef: int) -> Any:
        held = self._by_ef.get(ef)
        if held is None:
            held = self._by_ef[ef] = faiss().SearchParametersHNSW(efSearch=ef)
        return held

    def depths(self, queries: Matrix32, k: int, candidates: Candidates) -> NDArray[np.float64]:
        """As for other kinds, but removed vectors count: the graph meets them too."""
        size = len(self.matrix)
        if self._sample is None or self._sample.outgrown(size):
            self._sample = draw(self.matrix, np.arange(size))
        return depths(self._sample, queries, k, candidates, size)

    def _live(self) -> Candidates:
        held = self._alive
        if held is None or held[0] != self._revision:
            positions = np.flatnonzero(self.labels.by_position >= 0)
            held = self._alive = (self._revision, Candidates(positions, len(self.matrix)))
        return held[1]
