"""How a list stores its vectors: as they are, or compressed and re-ranked by the true vectors.

Each codec makes the FAISS index that encodes and scans, from the centroids and from plain arrays.

Shapes: N vectors, L lists, D dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures import costs
from duality.index.structures.base import Arrays, Setting
from duality.index.structures.checks import finite_in, integer_in
from duality.index.structures.coarse import Coarse
from duality.index.structures.matrix import Matrix32

# Training rows of a codec: 64 for each of 256 centroids.
SAMPLE = 16_384


class Codec(ABC):
    """Encodes vectors, given their lists.

    Args:
        coarse: the lists.
        arrays: trained parameters, checked by the codec.
        settings: of the structure.

    Raises:
        ValueError: parameters do not fit.
    """

    compressed = True

    def __init__(self, coarse: Coarse, arrays: Arrays, settings: Setting) -> None:
        self.dim = coarse.centroids.shape[1] - 1
        self.arrays = {name: np.asarray(arrays[name]) for name in self.names()}
        self.index = self._make(coarse, settings)
        self.index.is_trained = True
        # By itself FAISS searches given lists with one thread; so it shares out the queries.
        self.index.parallel_mode = 3

    @staticmethod
    def names() -> tuple[str, ...]:
        """The parameters' names."""
        return ()

    @classmethod
    def train(cls, coarse: Coarse, sample: Matrix32, settings: Setting) -> dict[str, NDArray[Any]]:
        """Parameters for vectors like `sample` [N, D]."""
        return {}

    @abstractmethod
    def _make(self, coarse: Coarse, settings: Setting) -> Any:
        """The FAISS IndexIVF."""

    def stored(self, vectors: Matrix32) -> Matrix32:
        """Vectors or queries as the index wants them."""
        return vectors

    def encode(self, vectors: Matrix32, groups: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 [N, code size]."""
        codes = np.empty((len(vectors), self.index.code_size), np.uint8)
        stored, lists, pointer = self.stored(vectors), groups.astype(np.int64), faiss().swig_ptr
        self.index.encode_vectors(len(vectors), pointer(stored), pointer(lists), pointer(codes))
        return codes

    @property
    def row_cost(self) -> float:
        """Nanoseconds of scoring one vector of a list; costs.py says of what."""
        return costs.score(1, self.dim)

    def parameters(self) -> Any:
        """A new FAISS parameter object of a search, without a selector."""
        return faiss().SearchParametersIVF()


class Flat(Codec):
    """The vectors as they are: their codes are the matrix itself."""

    compressed = False

    def _make(self, coarse: Coarse, settings: Setting) -> Any:
        module = faiss()
        quantizer = _quantizer(np.zeros((len(coarse), self.dim), np.float32))
        return module.IndexIVFFlat(quantizer, self.dim, len(coarse), module.METRIC_INNER_PRODUCT)


class Sq8(Codec):
    """A byte per value: a quarter of the memory."""

    # FAISS scores eight values at a time, or else one by one: eight times slower.
    WIDTH = 8

    @staticmethod
    def names() -> tuple[str, ...]:
        return ("trained",)

    @classmethod
    def train(cls, coarse: Coarse, sample: Matrix32, settings: Setting) -> dict[str, NDArray[Any]]:
        low, high = sample.min(axis=0), sample.max(axis=0)
        # Room for vectors that come later; a value that never varies still needs a width.
        margin = 0.05 * (high - low) + 1e-6 * np.maximum(np.abs(low), 1e-6)
        return {"trained": np.stack([low - margin, high - low + 2 * margin]).astype(np.float32)}

    def _make(self, coarse: Coarse, settings: Setting) -> Any:
        module = faiss()
        trained = _padded(finite_in(self.arrays, "trained", (2, self.dim)), self.WIDTH)
        width = trained.shape[1]
        index = module.IndexIVFScalarQuantizer(
            _quantizer(np.zeros((len(coarse), width), np.float32)), width, len(coarse),
            module.ScalarQuantizer.QT_8bit, module.METRIC_INNER_PRODUCT, False,
        )  # fmt: skip
        module.copy_array_to_vector(trained.ravel(), index.sq.trained)
        return index

    @property
    def row_cost(self) -> float:
        return 1.4 * costs.score(1, self.dim)

    def stored(self, vectors: Matrix32) -> Matrix32:
        return _padded(vectors, self.WIDTH)


class Pq(Codec):
    """Product quantization of what the centroid leaves over: a byte for every two values by default.

    Zeros are appended so that the values fall into pieces of one size.
    """

    @staticmethod
    def names() -> tuple[str, ...]:
        return ("pq",)

    @classmethod
    def train(cls, coarse: Coarse, sample: Matrix32, settings: Setting) -> dict[str, NDArray[Any]]:
        dim, pieces = sample.shape[1], settings["pieces"]
        rest = _padded(sample - coarse.centroids[coarse.assign(sample)[0], :dim], pieces)
        quantizer = faiss().ProductQuantizer(rest.shape[1], pieces, 8)
        quantizer.cp.niter, quantizer.cp.seed, quantizer.cp.min_points_per_centroid = 6, 1, 1
        if len(rest) < quantizer.ksub:
            rest = np.resize(rest, (quantizer.ksub, rest.shape[1]))
        quantizer.train(rest)
        centroids = faiss().vector_to_array(quantizer.centroids)
        return {"pq": centroids.reshape(quantizer.M, quantizer.ksub, quantizer.dsub)}

    def _make(self, coarse: Coarse, settings: Setting) -> Any:
        module = faiss()
        self._pieces = integer_in(settings, "pieces", 1, self.dim)
        centroids = self.stored(coarse.centroids[:, : self.dim])
        width = centroids.shape[1]
        trained = finite_in(self.arrays, "pq", (self._pieces, 256, width // self._pieces))
        index = module.IndexIVFPQ(
            _quantizer(centroids), width, len(coarse), self._pieces, 8, module.METRIC_INNER_PRODUCT
        )
        module.copy_array_to_vector(trained.ravel(), index.pq.centroids)
        return index

    def stored(self, vectors: Matrix32) -> Matrix32:
        return _padded(vectors, self._pieces)

    @property
    def row_cost(self) -> float:
        return 1.5 + 0.45 * self._pieces


class RaBitQ(Codec):
    """A few bits per value of the randomly rotated rest; no training."""

    @staticmethod
    def names() -> tuple[str, ...]:
        return ("rotation",)

    @classmethod
    def train(cls, coarse: Coarse, sample: Matrix32, settings: Setting) -> dict[str, NDArray[Any]]:
        dim = sample.shape[1]
        rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))
        return {"rotation": rotation.astype(np.float32)}

    def _make(self, coarse: Coarse, settings: Setting) -> Any:
        module = faiss()
        rotation = finite_in(self.arrays, "rotation", (self.dim, self.dim))
        # FAISS never comes back from encoding values that a wrong rotation blew up.
        if np.abs(rotation @ rotation.T - np.eye(self.dim)).max() > 1e-3:
            raise ValueError("array rotation is no rotation")
        bits = integer_in(settings, "bits", 1, 8)
        # NumPy's product leaves a thread spinning beside FAISS for some 50 ms: half the speed of a batch.
        self._turn = module.LinearTransform(self.dim, self.dim, False)
        module.copy_array_to_vector(np.ascontiguousarray(rotation.T).ravel(), self._turn.A)
        self._turn.is_trained = True
        quantizer = _quantizer(self.stored(coarse.centroids[:, : self.dim]))
        return module.IndexIVFRaBitQ(
            quantizer, self.dim, len(coarse), module.METRIC_INNER_PRODUCT, True, bits,
        )  # fmt: skip

    def stored(self, vectors: Matrix32) -> Matrix32:
        vectors = np.ascontiguousarray(vectors, np.float32)
        turned, pointer = np.empty_like(vectors), faiss().swig_ptr
        self._turn.apply_noalloc(len(vectors), pointer(vectors), pointer(turned))
        return turned

    def parameters(self) -> Any:
        parameters = faiss().IVFRaBitQSearchParameters()
        # Queries of 4 bits a value: 20 ns a vector at the same recall as unquantized ones at 340.
        parameters.qb = 4
        return parameters

    @property
    def row_cost(self) -> float:
        return 0.3 * self.dim


CODECS: dict[str, type[Codec]] = {"ivf": Flat, "sq8": Sq8, "ivfpq": Pq, "rabitq": RaBitQ}


def trained_codec(settings: Setting, coarse: Coarse, vectors: Matrix32, seed: int = 1) -> Codec:
    """The codec of a kind, trained on a sample of vectors [N, D]."""
    kind = CODECS[settings["kind"]]
    rows = np.arange(len(vectors))
    if len(vectors) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(len(vectors), SAMPLE, replace=False))
    sample = np.ascontiguousarray(vectors[rows]) if len(rows) else np.zeros((1, vectors.shape[1]), np.float32)
    return kind(coarse, kind.train(coarse, sample, settings), settings)


def _padded(vectors: Matrix32, pieces: int) -> Matrix32:
    missing = -vectors.shape[1] % pieces
    return np.pad(vectors, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(vectors)


def _quantizer(centroids: Matrix32) -> Any:
    """FAISS asks it for the centroid of a list (residual codes), never for the nearest."""
    index = faiss().IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    return index
