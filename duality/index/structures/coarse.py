"""Groups of near vectors: centroids, which group a vector belongs to, which groups a query visits.

Inner products are searched well only among vectors of one length. So a vector x stands for
[x, sqrt(M² - |x|²)], M the largest length at the build, and a query q for [q M / |q|, 0]: both of
length M, their inner product a multiple of the true one. A vector longer than M gets 0 there. Only
the groups live in these D + 1 dimensions; scores come from the vectors themselves.

Shapes: N vectors, Q queries, L groups (lists), D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.matrix import Keys, Matrix32, in_blocks
from duality.index.structures.products import products
from duality.index.structures.selecting import best_columns

Lists = NDArray[np.int32]

Assign = Callable[[Matrix32], tuple[Lists, Matrix32]]

ROUNDS = 6
SAMPLE_PER_LIST = 64
# Products of vectors and centroids at a time, 8 MB.
_PRODUCTS = 1 << 21


def lengthened(vectors: Matrix32, radius: float) -> Matrix32:
    """[N, D] to [N, D + 1]: all of length `radius`, or a 0 where they are longer already."""
    result = np.empty((len(vectors), vectors.shape[1] + 1), np.float32)
    result[:, :-1] = vectors
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    result[:, -1] = np.sqrt(np.maximum(radius**2 - squares, 0.0))
    return result


def largest_length(vectors: Matrix32) -> float:
    """M; block by block, since the vectors may be mapped from a file."""
    largest = 0.0
    for block in in_blocks(vectors):
        largest = max(largest, float(np.einsum("nd,nd->n", block, block).max(initial=0.0)))
    # A little more, so that rounding never leaves the square root of a negative number.
    return float(np.sqrt(largest)) * (1 + 1e-6)


class Coarse:
    """Centroids of L groups.

    Args:
        centroids: float32 [L, D + 1], L >= 1.
        radius: M.
    """

    def __init__(self, centroids: Matrix32, radius: float) -> None:
        self.centroids, self.radius = np.ascontiguousarray(centroids, np.float32), radius
        # argmin |q' - c|² = argmax q.c_D - |c|²/2 |q|/M, a plain inner product of D + 1 values.
        table = self.centroids.copy()
        table[:, -1] = -0.5 * np.einsum("ld,ld->l", self.centroids, self.centroids)
        self.table = table
        self._inverse = 1 / radius if radius > 1e-30 else 0.0
        self._index = faiss().IndexFlatIP(table.shape[1])
        self._index.add(table)

    def __len__(self) -> int:
        return len(self.centroids)

    def check(self) -> None:
        """Raises ValueError when a centroid cannot be the mean of vectors of length M."""
        squares = np.einsum("ld,ld->l", self.centroids, self.centroids, dtype=np.float64)
        if (squares > (1.01 * self.radius) ** 2).any():
            raise ValueError("array centroids holds one longer than all vectors")

    def assign(self, vectors: Matrix32) -> tuple[Lists, Matrix32]:
        """Group of each vector, int32 [N], and squared distance to its centroid, float32 [N]."""
        groups, distances = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
        rows = max(_PRODUCTS // len(self), 1)
        # NaN and infinity (a damaged file) get any group.
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(vectors), rows):
                block = slice(start, start + rows)
                groups[block], distances[block] = self._nearest(vectors[block])
        return groups, distances

    def _nearest(self, vectors: Matrix32) -> tuple[Keys, Matrix32]:
        squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
        extended = np.empty((len(vectors), len(self._halved)), np.float32)
        extended[:, :-2] = vectors
        extended[:, -2] = np.sqrt(np.maximum(self.radius**2 - squares, 0.0))
        extended[:, -1] = 1
        scores = extended @ self._halved
        groups = scores.argmax(axis=1)
        # Rounding makes tiny negative distances.
        best = scores[np.arange(len(groups)), groups]
        return groups, np.maximum(np.maximum(squares, self.radius**2) - 2 * best, 0)

    @cached_property
    def _halved(self) -> Matrix32:
        """[D + 2, L]: argmin |x - c|² = argmax x.c - |c|²/2, one matrix product: a third of FAISS's time."""
        return np.ascontiguousarray(np.column_stack([self.centroids, self.table[:, -1]]).T)

    def asked(self, queries: Matrix32) -> Matrix32:
        """Queries as the table wants them, [Q, D + 1]."""
        extended = np.empty((len(queries), self.table.shape[1]), np.float32)
        extended[:, :-1] = queries
        if len(queries) == 1:
            # A single query is what most requests ask; this takes half as long.
            extended[0, -1] = math.sqrt(np.dot(queries[0], queries[0])) * self._inverse
        else:
            extended[:, -1] = np.sqrt(np.einsum("qd,qd->q", queries, queries)) * self._inverse
        return extended

    def rank(self, queries: Matrix32, number: int) -> tuple[Matrix32, Keys]:
        """The `number` nearest groups per query, nearest first: scores and int64 [Q, number]."""
        module, extended = faiss(), self.asked(queries)
        scores = np.empty((len(queries), number), np.float32)
        groups = np.empty((len(queries), number), np.int64)
        pointer = module.swig_ptr
        self._index.search_c(len(queries), pointer(extended), number, pointer(scores), pointer(groups))
        return scores, groups

    def rank_lists(self, queries: Matrix32, number: int) -> Keys:
        """As `rank`, groups only; for large numbers too."""
        if 16 * number < len(self):
            return self.rank(queries, number)[1]
        return self.nearness(queries).nearest(number)

    def nearness(self, queries: Matrix32) -> Nearness:
        """How near every group is to each query."""
        asked = self.asked(queries)
        return Nearness(products(asked, self.table), self.table[:, -1], asked[:, -1:])


@dataclass(frozen=True)
class Nearness:
    """How near groups are to queries, from one matrix product, whatever is asked of it.

    Args:
        scores: float32 [Q, L], higher is nearer.
        halves: float32 [L], what `scores` hold besides the inner product with the centroid,
        lengths: float32 [Q, 1], times this.
    """

    scores: Matrix32
    halves: Matrix32
    lengths: Matrix32

    def __len__(self) -> int:
        return len(self.scores)

    def nearest(self, number: int) -> Keys:
        """The `number` nearest groups per query, nearest first, int64 [Q, number]."""
        queries, lists = self.scores.shape
        if 4 * number >= lists:
            return np.argsort(-self.scores, axis=1)[:, :number]
        if queries > 1:
            return best_columns(self.scores, number)[1]
        part = self.scores[0].argpartition(lists - number)[lists - number :]
        return part[np.argsort(-self.scores[0][part])][None]

    def products(self) -> Matrix32:
        """Inner products of queries and centroids, float32 [Q, L]."""
        return self.scores - self.halves * self.lengths

    def of(self, rows: Keys) -> Nearness:
        """Of some of the queries."""
        return Nearness(self.scores[rows], self.halves, self.lengths[rows])


def train(
    vectors: Matrix32, nlist: int, radius: float, *, device: str | None = None, seed: int = 1
) -> Coarse:
    """k-means over a sample.

    Args:
        vectors: float32 [N, D].
        nlist: L, at most N; 1 when N is 0.
        radius: M.
        device: where the rounds run, as torch names it; None for FAISS on the processor.
        seed: of the sample and of the first centroids.
    """
    rows = np.arange(len(vectors))
    if len(vectors) > SAMPLE_PER_LIST * nlist:
        rows = np.sort(
            np.random.default_rng(seed).choice(len(vectors), SAMPLE_PER_LIST * nlist, replace=False)
        )
    sample = lengthened(vectors[rows], radius)
    if nlist == 1:
        mean = sample.sum(axis=0, keepdims=True) / np.float32(max(len(sample), 1))
        return Coarse(mean, radius)
    if device is not None:
        from duality.index.structures.device import kmeans_on

        return Coarse(kmeans_on(device, sample, nlist, ROUNDS, seed), radius)
    return Coarse(_kmeans(sample, nlist, seed), radius)


def assign_all(
    coarse: Coarse, vectors: Matrix32, *, device: str | None = None, progress: Callable[[int], None] | None
) -> tuple[Lists, float]:
    """Group of every vector, int32 [N], and the mean squared distance to the centroids."""
    groups, total, start = np.empty(len(vectors), np.int32), 0.0, 0
    assign: Assign = coarse.assign
    if device is not None:
        from duality.index.structures.device import assigner_on

        assign = assigner_on(device, coarse)
    for block in in_blocks(vectors):
        groups[start : start + len(block)], distances = assign(block)
        total += float(distances.sum(dtype=np.float64))
        start += len(block)
        if progress:
            progress(len(block))
    return groups, total / max(len(vectors), 1)


def _kmeans(sample: Matrix32, nlist: int, seed: int) -> Matrix32:
    module = faiss()
    clustering = module.Clustering(sample.shape[1], nlist)
    clustering.niter, clustering.seed = ROUNDS, seed
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = SAMPLE_PER_LIST
    index = module.IndexFlatL2(sample.shape[1])
    clustering.train(sample, index)
    return module.vector_to_array(clustering.centroids).reshape(nlist, -1)
