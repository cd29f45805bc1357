"""Inverted lists: vectors in groups, of which a search visits the nearest. Takes writes well.

The kinds differ in how a list stores its vectors (codecs.py): `ivf` as they are; `sq8`, `ivfpq`
and `rabitq` compressed, with the best of them scored again from the matrix. Scores are true inner
products in every kind.

Shapes: N vectors, Q queries, L lists, k results, P positions, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures import coarse as coarse_module
from duality.index.structures.base import Arrays, Packed, Setting, Streamed, Structure
from duality.index.structures.candidates import Candidates
from duality.index.structures.checks import (
    array_in,
    finite_in,
    keys_in,
    matrix_in,
    number_in,
    offsets_in,
    positions_in,
    refusing,
)
from duality.index.structures.coarse import Coarse
from duality.index.structures.codecs import CODECS, Codec, trained_codec
from duality.index.structures.drift import Drift
from duality.index.structures.labels import Labels
from duality.index.structures.list_filters import find_among
from duality.index.structures.list_plans import plan_lists
from duality.index.structures.lists import Lists
from duality.index.structures.longer import Longer
from duality.index.structures.matrix import BLOCK_ROWS, Keys, Matrix, Matrix32, in_blocks
from duality.index.structures.plan import Plan
from duality.index.structures.probing import Probing, visits_of_filled
from duality.index.structures.reach import measure_reach, stand_ins
from duality.index.structures.reranking import RERANK, measure_rerank, rerank_in
from duality.index.structures.results import Found, best
from duality.index.structures.sampling import Sample

MAX_LISTS = 1 << 20
HOLLOW = 0.9


class Ivf(Structure):
    """Inverted lists with a codec. Made by `build` or `unpack`."""

    def __init__(
        self,
        matrix: Matrix,
        labels: Labels,
        settings: Setting,
        coarse: Coarse,
        codec: Codec,
        lists: Lists,
        longer: Keys | None = None,
    ) -> None:
        super().__init__(matrix, labels, settings)
        self.kind = self.settings["kind"]
        self.coarse, self.codec, self.lists = coarse, codec, lists
        self._longer = Longer(np.empty(0, np.int64) if longer is None else longer, coarse.radius)
        self.drift, self.probing = Drift(self.settings), Probing(self.settings, len(coarse))
        # FAISS parameter objects by number of probes: making one costs as much as a small search.
        self._by_probes: dict[int, Any] = {}
        self._scatter: tuple[Sample, Matrix32] | None = None
        self._sizes: tuple[int, Keys] | None = None

    @classmethod
    def build(
        cls,
        settings: Setting,
        keys: Keys,
        vectors: Matrix32,
        *,
        queries: Matrix32 | None = None,
        device: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Group `vectors` [N, D], N >= 1, which stay where they are."""
        labels = Labels(keys)
        chosen = _chosen(settings, len(keys), vectors.shape[1])
        chosen["radius"] = coarse_module.largest_length(vectors)
        coarse = coarse_module.train(vectors, chosen["nlist"], chosen["radius"], device=device)
        groups, spread = coarse_module.assign_all(coarse, vectors, device=device, progress=progress)
        chosen["spread"] = spread
        families = stand_ins(vectors, queries)
        chosen["reach"] = measure_reach(coarse, vectors, groups, families)
        codec = trained_codec(chosen, coarse, vectors)
        # 16-bit numbers are sorted by counting, ten times faster.
        small = groups.astype(np.uint16) if len(coarse) <= 1 << 16 else groups
        order = np.argsort(small, kind="stable")
        lists = Lists(codec.index, labels, groups, order, _codes(codec, vectors, groups))
        structure = cls(Matrix(vectors), labels, chosen, coarse, codec, lists)
        if codec.compressed and not chosen["rerank"]:
            structure.settings["rerank"] = measure_rerank(structure, families) if len(keys) else RERANK[0]
        return structure

    @property
    def nlist(self) -> int:
        """L."""
        return len(self.coarse)

    def sizes(self) -> Keys:
        """Live vectors per list, int64 [L]."""
        held = self._sizes
        if held is None or held[0] != self._revision:
            groups = self.lists.groups
            if self.labels.dead:
                groups = groups[self.labels.by_position >= 0]
            held = self._sizes = (self._revision, np.bincount(groups, minlength=self.nlist))
        return held[1]

    def rerank(self, setting: Setting | None = None) -> int:
        """Vectors read per result, for compressed kinds."""
        if setting and setting.get("rerank"):
            return max(1, int(setting["rerank"]))
        return rerank_in(self.settings)

    def pack(self) -> Packed:
        groups = self.lists.groups
        live = np.flatnonzero(self.labels.by_position >= 0)
        order = live[np.argsort(groups[live], kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(self.sizes())]).astype(np.int64)
        matrix = Streamed((len(order), self.dim), np.dtype(np.float32), lambda: self.matrix.blocks(order))
        arrays: dict[str, NDArray[Any] | Streamed] = {
            "centroids": self.coarse.centroids,
            "offsets": offsets,
            "keys": self.labels.by_position[order],
            "longer": self._longer.places(order),
            "matrix": matrix,
            **self.codec.arrays,
        }
        if self.codec.compressed:
            shape = (len(order), self.codec.index.code_size)
            arrays["codes"] = Streamed(shape, np.dtype(np.uint8), lambda: self._code_blocks(order))
        return {**self.settings, **self.drift.settings()}, arrays

    @classmethod
    def unpack(cls, settings: Setting, arrays: Arrays) -> Self:
        kind = str(settings["kind"])
        with refusing(kind):
            keys = keys_in(arrays)
            matrix = matrix_in(arrays, len(keys))
            centroids = finite_in(arrays, "centroids", (None, matrix.shape[1] + 1))
            if not 1 <= len(centroids) <= MAX_LISTS:
                raise ValueError(f"{len(centroids)} lists")
            sizes = np.diff(offsets_in(arrays, "offsets", len(centroids), len(keys)))
            coarse = Coarse(centroids, number_in(settings, "radius", 0, 1e30))
            coarse.check()
            codec = CODECS[kind](coarse, arrays, settings)
            if codec.compressed:
                rerank_in(settings)
            labels = Labels(keys)
            groups = np.repeat(np.arange(len(centroids), dtype=np.int32), sizes)
            lists = Lists(codec.index, labels, groups, None, _stored_codes(codec, arrays, matrix))
            longer = positions_in(arrays, "longer", len(keys))
            return cls(Matrix(matrix), labels, settings, coarse, codec, lists, longer)

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self.probing = Probing(self.settings, len(self.coarse))

    def stale(self) -> str | None:
        return self.drift.stale(self.count) or self._longer.stale(self.count) or super().stale()

    def _append(self, keys: Keys, vectors: Matrix32) -> None:
        self._appending(keys, vectors)()

    def _appending(self, keys: Keys, vectors: Matrix32) -> Callable[[], None]:
        groups, distances = self.coarse.assign(vectors)
        stored = self.codec.stored(vectors)

        def append() -> None:
            self._longer.saw(len(self.matrix), vectors)
            self.lists.add(len(self.matrix), stored, groups)
            self.labels.append(keys)
            self.matrix.append(vectors)
            self.drift.saw(distances)

        return append

    def expect(self, keys: Keys) -> None:
        if not self.lists.mapped:
            positions = self.labels.positions_of(keys)
            self.lists.expect(positions[positions >= 0])

    def _erase(self, positions: Keys) -> None:
        self.lists.remove(positions)
        self._longer.forget(positions)

    def _find(self, queries: Matrix32, k: int, setting: Setting | None) -> Found:
        probes = self.probing.probes(k, setting)
        # Where vectors were removed in numbers, the nearest lists may be empty ones.
        hollow = self.count < HOLLOW * self.drift.built or self.labels.dead > (1 - HOLLOW) * self.count
        groups = visits_of_filled(self, queries, probes) if hollow else self.coarse.rank(queries, probes)[1]
        return self._search_lists(queries, k, groups, None, setting)

    def _find_among(
        self, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
    ) -> Found:
        return find_among(self, queries, k, candidates, setting)

    def scatter(self) -> Matrix32:
        """Mean outer product of vectors less their centroids, over a sample, float32 [D, D]."""
        sample = self._sampled()
        held = self._scatter
        if held is None or held[0] is not sample:
            groups = self.lists.groups[sample.positions]
            rest = sample.vectors - self.coarse.centroids[groups, :-1]
            scatter = (rest.T @ rest / max(len(rest), 1)).astype(np.float32)
            held = self._scatter = sample, scatter
        return held[1]

    def _search_lists(
        self,
        queries: Matrix32,
        k: int,
        groups: Keys,
        candidates: Candidates | None,
        setting: Setting | None,
    ) -> Found:
        found = self._listed(queries, k, groups, candidates, setting)
        return self._longer.merge(
            self.matrix, queries, found, k, None if candidates is None else candidates.mask
        )

    def _listed(
        self,
        queries: Matrix32,
        k: int,
        groups: Keys,
        candidates: Candidates | None,
        setting: Setting | None,
    ) -> Found:
        if not self.codec.compressed:
            return self._probe(queries, k, groups, candidates)
        fetch = min(k * self.rerank(setting), self.count)
        _, positions = self._probe(queries, fetch, groups, candidates)
        return best(self.matrix.products(queries, positions), positions, k)

    def _probe(self, queries: Matrix32, k: int, groups: Keys, candidates: Candidates | None) -> Found:
        """Best k positions in the lists `groups` [Q, probes], -1 for none, by their codes."""
        self.lists.need(groups)
        pointer, count = faiss().swig_ptr, len(queries)
        scores, found = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        # Room that FAISS insists on: with residual codes it computes the centroids' products itself.
        products = np.zeros(groups.shape, np.float32)
        stored = np.ascontiguousarray(self.codec.stored(queries), np.float32)
        self.codec.index.search_preassigned_c(
            count, pointer(stored), k, pointer(groups), pointer(products),
            pointer(scores), pointer(found), False, self._parameters(groups.shape[1], candidates),
        )  # fmt: skip
        return scores, found

    def _parameters(self, probes: int, candidates: Candidates | None) -> Any:
        kept = self._by_probes if candidates is None else candidates.derived.setdefault("parameters", {})
        held = kept.get(probes)
        if held is None:
            held = self.codec.parameters()
            held.nprobe = probes
            if candidates is not None:
                held.sel = candidates.selector
            kept[probes] = held
        return held

    def _plan(
        self, k: int, matches: int | None, queries: Matrix32 | None, candidates: Candidates | None
    ) -> Plan:
        return plan_lists(self, k, matches, queries, candidates)

    def _code_blocks(self, order: Keys) -> Iterator[NDArray[np.uint8]]:
        groups, codes = self.lists.groups, self.lists.codes
        for positions in in_blocks(order):
            block = np.empty((len(positions), codes.shape[1]), np.uint8)
            inside = positions < len(codes)
            block[inside] = codes[positions[inside]]
            added = positions[~inside]
            block[~inside] = self.codec.encode(self.matrix.rows(added), groups[added])
            yield block


def _chosen(settings: Setting, count: int, dim: int) -> dict[str, Any]:
    """Settings of a build, zeros replaced where the number of vectors alone decides."""
    chosen = {**settings, "nlist": _nlist(settings["nlist"], count), "built": count}
    if settings["nprobe"] and not (settings.get("search") or {}).get("nprobe"):
        asked = {"nprobe": settings["nprobe"], "nlist": chosen["nlist"]}
        chosen["search"] = {**(settings.get("search") or {}), **asked}
    if "pieces" in chosen:
        chosen["pieces"] = min(chosen["pieces"] or -(-dim // 2), dim)
    return chosen


def _nlist(asked: int, count: int) -> int:
    # About 2 sqrt(N): ranking lists and reading them cost alike. k-means wants some 39 vectors a
    # list; beyond 4,096 lists the build takes longer than searches save.
    number = asked or int(max(min(2 * count**0.5, 4_096), count**0.5))
    return max(1, min(number, count // 39))


def _codes(codec: Codec, vectors: Matrix32, groups: NDArray[np.int32]) -> NDArray[np.uint8]:
    """uint8 [N, code size]; the vectors' own memory when they are not compressed."""
    if not codec.compressed:
        return vectors.view(np.uint8)
    codes = np.empty((len(vectors), codec.index.code_size), np.uint8)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        codes[block] = codec.encode(vectors[block], groups[block])
    return codes


def _stored_codes(codec: Codec, arrays: Arrays, matrix: Matrix32) -> NDArray[np.uint8]:
    if not codec.compressed:
        return matrix.view(np.uint8)
    return array_in(arrays, "codes", np.uint8, (len(matrix), codec.index.code_size))
