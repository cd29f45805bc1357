"""Kinds of search structure: exact, inverted lists (IVF), graph (HNSW).

IVF and HNSW need vectors of one length to find inner products well, so they hold
[x, sqrt(M² - |x|²)] with M the largest length at build time, and queries get a zero: inner
products stay what they were. A later vector longer than M is scored by hand (`_oversized`).

Notation as in structure.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structure import Found, Keys, Matrix, Structure


class Exact(Structure):
    """Scores every vector. Cost: O(N D) per query; the choice up to some 100,000 vectors."""

    @property
    def dim(self) -> int:
        return self.index.d

    @property
    def stale(self) -> bool:
        return False

    def _append(self, vectors: Matrix) -> None:
        self.index.add(vectors)

    def _erase(self, positions: Keys) -> None:
        self.index.remove_ids(positions)
        self._table[self.labels[positions]] = -1
        self.labels = np.delete(self.labels, positions)
        self._table[self.labels] = np.arange(len(self.labels))

    def _at(self, positions: Keys) -> Matrix:
        return _matrix(self.index)[positions]

    def _find(self, queries: Matrix, k: int, mask: NDArray[np.bool_] | None) -> Found:
        parameters = None if mask is None else faiss().SearchParameters(sel=_selector(mask))
        return self.index.search(queries, k, params=parameters)


class Approximate(Structure):
    """Shared by IVF and HNSW: the extra dimension, and vectors too long for it."""

    def __init__(self, index: Any, labels: Keys, settings: Mapping[str, Any]) -> None:
        super().__init__(index, labels, settings)
        self._oversized = np.array(self.settings.get("oversized", []), np.int64)

    @property
    def dim(self) -> int:
        return self.index.d - 1

    @property
    def stale(self) -> bool:
        dead = len(self.labels) - self.count
        grown = self.count > 4 * self.settings["built"] + 1000
        return grown or dead > 2 * self.count + 1000 or 20 * len(self._oversized) > self.count + 1000

    def add(self, keys: Keys, vectors: Matrix) -> None:
        super().add(keys, vectors)
        long = _lengths(vectors) > self.settings["radius"]
        self._remember(np.union1d(self._oversized, keys[long]))

    def remove(self, keys: Keys) -> None:
        super().remove(keys)
        self._remember(np.setdiff1d(self._oversized, keys))

    def _remember(self, oversized: Keys) -> None:
        self._oversized = oversized
        self.settings["oversized"] = oversized.tolist()

    def _find(self, queries: Matrix, k: int, mask: NDArray[np.bool_] | None) -> Found:
        longer = self._positions(self._oversized)
        if len(longer):
            mask = self._mask(None) if mask is None else mask
            mask = np.ones(len(self.labels), np.bool_) if mask is None else mask.copy()
            longer = longer[mask[longer]]
            mask[longer] = False
        share = 1.0 if mask is None else max(mask.sum(), 1) / max(self.count, 1)
        scores, positions = self._probe(queries, k, mask, share)
        if not len(longer):
            return scores, positions
        scores = np.where(positions >= 0, scores, -np.inf)
        scores = np.hstack([scores, queries @ self._at(longer).T])
        positions = np.hstack([positions, np.broadcast_to(longer, (len(queries), len(longer)))])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(positions, best, 1)

    @abstractmethod
    def _probe(self, queries: Matrix, k: int, mask: NDArray[np.bool_] | None, share: float) -> Found:
        """As `_find`; share is the part of live vectors that the mask lets through."""


class Ivf(Approximate):
    """Inverted lists. FAISS ids are positions; its hash map finds them for removal."""

    def _append(self, vectors: Matrix) -> None:
        start = len(self.labels)
        self.index.add_with_ids(
            _lengthened(vectors, self.settings["radius"]), np.arange(start, start + len(vectors))
        )

    def _erase(self, positions: Keys) -> None:
        self.index.remove_ids(positions)
        self._bury(positions)

    def _at(self, positions: Keys) -> Matrix:
        return self.index.reconstruct_batch(positions)[:, :-1]

    def _probe(self, queries: Matrix, k: int, mask: NDArray[np.bool_] | None, share: float) -> Found:
        nlist = self.index.nlist
        asked = self.settings["nprobe"] or max(8, -(-nlist // 6))
        # The fewer vectors match, the more lists must be probed to meet the nearest of them.
        nprobe = min(nlist, int(np.ceil(asked / share)))
        # Removed vectors are gone from the lists, so only a real filter needs the selector.
        selector = {} if mask is None or share >= 1 else {"sel": _selector(mask)}
        parameters = faiss().SearchParametersIVF(nprobe=nprobe, **selector)
        # Queries as long as the vectors: for short ones the distance to a centroid would depend
        # on the centroid's length more than on the query.
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        factors = self.settings["radius"] / np.where(lengths > 0, lengths, 1)
        factors = np.where(factors > 0, factors, 1).astype(np.float32)
        scores, positions = self.index.search(_lengthened(queries * factors, 0.0), k, params=parameters)
        return scores / factors, positions


class Hnsw(Approximate):
    """Navigable graph. FAISS cannot remove from it, so removed vectors stay as stepping stones."""

    def _append(self, vectors: Matrix) -> None:
        self.index.add(_lengthened(vectors, self.settings["radius"]))

    def _erase(self, positions: Keys) -> None:
        self._bury(positions)

    def _at(self, positions: Keys) -> Matrix:
        return _matrix(faiss().downcast_index(self.index.storage))[positions, :-1]

    def _probe(self, queries: Matrix, k: int, mask: NDArray[np.bool_] | None, share: float) -> Found:
        width = int(np.ceil(max(self.settings["ef_search"], k) / max(share, self.scan_share)))
        selector = {} if mask is None else {"sel": _selector(mask)}
        parameters = faiss().SearchParametersHNSW(efSearch=width, **selector)
        return self.index.search(_lengthened(queries, 0.0), k, params=parameters)


STRUCTURES: dict[str, type[Structure]] = {"exact": Exact, "ivf": Ivf, "hnsw": Hnsw}


def build_structure(options: Mapping[str, Any], keys: Keys, vectors: Matrix) -> Structure:
    """Build a structure from nothing.

    Args:
        options: `IndexSpec.options()`.
        keys: int64 [N], ascending, no repeats.
        vectors: float32 [N, D], finite.
    """
    dim = vectors.shape[1]
    radius = float(_lengths(vectors).max(initial=0.0)) * (1 + 1e-6)
    settings = {**options, "radius": radius, "built": len(keys)}
    empty = np.empty(0, np.int64)
    match options["kind"]:
        case "exact":
            structure: Structure = Exact(faiss().IndexFlatIP(dim), empty, settings)
        case "ivf":
            structure = Ivf(_empty_lists(options["nlist"], vectors, radius), empty, settings)
        case _:
            graph = faiss().IndexHNSWFlat(dim + 1, options["m"], faiss().METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = options["ef_construction"]
            structure = Hnsw(graph, empty, settings)
    structure.add(keys, vectors)
    return structure


def _empty_lists(nlist: int, vectors: Matrix, radius: float) -> Any:
    """IVF whose centroids are nearest in L2, which for vectors of one length ranks as the product does."""
    module = faiss()
    count = len(vectors)
    # FAISS wants at least 39 training vectors per centroid.
    nlist = max(1, min(nlist or int(4 * count**0.5), count // 39))
    quantizer = module.IndexFlatL2(vectors.shape[1] + 1)
    if nlist == 1:
        quantizer.add(np.zeros((1, quantizer.d), np.float32))
    else:
        clustering = module.Clustering(quantizer.d, nlist)
        clustering.niter, clustering.seed = 8, 1
        # 64 points per centroid train as well as the usual 256 at a quarter of the time.
        clustering.max_points_per_centroid = 64
        clustering.train(_lengthened(vectors, radius), quantizer)
    lists = module.IndexIVFFlat(quantizer, quantizer.d, nlist, module.METRIC_INNER_PRODUCT)
    quantizer.this.disown()
    lists.own_fields = True
    lists.is_trained = True
    lists.set_direct_map_type(module.DirectMap.Hashtable)
    return lists


def _lengthened(vectors: Matrix, radius: float) -> Matrix:
    """[N, D] to [N, D + 1]: all rows of length `radius`, or a zero where they are longer already."""
    result = np.zeros((len(vectors), vectors.shape[1] + 1), np.float32)
    result[:, :-1] = vectors
    if radius:
        result[:, -1] = np.sqrt(np.maximum(radius**2 - _lengths(vectors) ** 2, 0.0))
    return result


def _lengths(vectors: Matrix) -> NDArray[np.float64]:
    """[N] in double precision, without a double-precision copy of the vectors."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))


def _matrix(flat: Any) -> Matrix:
    """View [positions, D] of a flat index's own memory; invalid after the next add or remove."""
    if flat.ntotal == 0:
        return np.empty((0, flat.d), np.float32)
    return faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(-1, flat.d)


def _selector(mask: NDArray[np.bool_]) -> Any:
    return faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))
