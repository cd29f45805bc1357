"""FAISS as it comes, with the settings that our index uses: what a search costs without us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from duality.index.faiss_module import faiss
from index.worlds import Matrix32, Rows

COMPRESSED = ("ivfpq", "sq8", "rabitq")
KINDS = ("exact", "ivf", "hnsw", *COMPRESSED)


class Bare:
    """A FAISS index of one of our kinds.

    Args:
        kind: exact, ivf, hnsw, ivfpq, sq8 or rabitq.
        options: as in the index spec: nlist, m, ef_construction, pieces, bits.
        vectors: float32 [N, D].
        lengthened: give vectors the extra dimension that makes them equally long, as our lists and
            graphs have it, and lists the centroids nearest by distance; as it comes, FAISS assigns
            by inner product with centroids of length one.
    """

    def __init__(
        self, kind: str, options: Mapping[str, Any], vectors: Matrix32, lengthened: bool = False
    ) -> None:
        module, self.kind = faiss(), kind
        self._square = float((vectors**2).sum(axis=1).max()) if lengthened else None
        if self._square is not None:
            rest = np.sqrt(np.maximum(self._square - (vectors**2).sum(axis=1), 0))

            width = _padding(kind, vectors.shape[1], options)
            options = {**options, "pieces": options.get("pieces", 0) + 1}
            padding = np.zeros((len(vectors), width), np.float32)
            padding[:, 0] = rest
            vectors = np.concatenate([vectors, padding], axis=1)
        product = module.METRIC_INNER_PRODUCT
        self.index: Any
        dim, nlist = vectors.shape[1], options.get("nlist", 0)
        if kind == "exact":
            self.index = module.IndexFlatIP(dim)
        elif kind == "hnsw":
            self.index = module.IndexHNSWFlat(dim, options["m"], product)
            self.index.hnsw.efConstruction = options["ef_construction"]
        else:
            self._quantizer = module.IndexFlatL2(dim) if lengthened else module.IndexFlatIP(dim)
            lists = {
                "ivf": lambda: module.IndexIVFFlat(self._quantizer, dim, nlist, product),
                "ivfpq": lambda: module.IndexIVFPQ(
                    self._quantizer, dim, nlist, options["pieces"], 8, product
                ),
                "sq8": lambda: module.IndexIVFScalarQuantizer(
                    self._quantizer, dim, nlist, module.ScalarQuantizer.QT_8bit, product, False
                ),
                "rabitq": lambda: module.IndexIVFRaBitQ(
                    self._quantizer, dim, nlist, product, True, options["bits"]
                ),
            }
            self._lists = lists[kind]()
            self._lists.cp.spherical = not lengthened
            self.index = module.IndexRefineFlat(self._lists) if kind in COMPRESSED else self._lists
        self.index.train(vectors)
        self.index.add(vectors)

    def set(self, setting: Mapping[str, Any]) -> None:
        """Use a search setting: nprobe, ef_search, rerank."""
        if self.kind == "hnsw":
            self.index.hnsw.efSearch = setting["ef_search"]
        elif self.kind != "exact":
            self._lists.nprobe = setting["nprobe"]
            if self.kind in COMPRESSED:
                self.index.k_factor = setting["rerank"]

    def asked(self, queries: Matrix32) -> Matrix32:
        """Queries as this index wants them."""
        if self._square is None:
            return queries
        # Lists are ranked by distance, so a query must be as long as the vectors.
        factor = np.sqrt(self._square) / np.linalg.norm(queries, axis=1, keepdims=True)
        zeros = np.zeros((len(queries), self.index.d - queries.shape[1]))
        return np.ascontiguousarray(np.concatenate([queries * factor, zeros], axis=1), np.float32)

    def search(self, queries: Matrix32, k: int) -> Rows:
        """Row numbers [Q, k]."""
        return self.index.search(queries, k)[1]

    def search_among(self, queries: Matrix32, k: int, mask: Any, effort: int) -> Rows:
        """Row numbers [Q, k] of rows whose mask (bool [N]) is true, with `effort` probes or candidates."""
        module = faiss()
        selector = module.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if self.kind == "hnsw":
            parameters = module.SearchParametersHNSW(efSearch=effort, sel=selector)
        elif self.kind == "exact":
            parameters = module.SearchParameters(sel=selector)
        else:
            parameters = module.SearchParametersIVF(nprobe=effort, sel=selector)
        return self.index.search(queries, k, params=parameters)[1]


def _padding(kind: str, dim: int, options: Mapping[str, Any]) -> int:
    """Dimensions to add: pieces are of one width, and scalar codes are slow unless 16 divides the width."""
    return {"ivfpq": dim // max(options.get("pieces", 0), 1), "sq8": 16}.get(kind, 1)
