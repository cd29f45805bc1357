"""The HNSW graph as plain arrays: read out of FAISS, checked, put back.

A graph trusts its numbers: a neighbour out of range is a read outside of memory. So every neighbour
is checked before FAISS sees it: O(links).

Shapes: N vectors, E links stored, M links per vector and level (2 M on the lowest).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.checks import array_in
from duality.index.structures.matrix import Keys

Links = NDArray[np.int32]

MAX_LEVELS = 32


def new_graph(dim: int, m: int, ef_construction: int) -> Any:
    """An empty FAISS graph over vectors of `dim` values."""
    graph = faiss().IndexHNSWFlat(dim, m, faiss().METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = ef_construction
    return graph


def read_graph(graph: Any) -> dict[str, NDArray[Any]]:
    """`levels` int32 [N], `neighbours` int32 [E], `entry` int64 [1]; copies."""
    module, hnsw = faiss(), graph.hnsw
    return {
        "levels": module.vector_to_array(hnsw.levels).astype(np.int32),
        "neighbours": module.vector_to_array(hnsw.neighbors).astype(np.int32),
        "entry": np.array([hnsw.entry_point], np.int64),
    }


def offsets_of(levels: NDArray[np.int32], m: int) -> Keys:
    """Where the links of each vector start, int64 [N + 1]: 2 m on the lowest level, m on the others."""
    return np.concatenate([[0], np.cumsum((levels.astype(np.int64) + 1) * m)])


def graph_in(arrays: Mapping[str, NDArray[Any]], count: int, m: int) -> dict[str, NDArray[Any]]:
    """The arrays of a graph over `count` vectors, checked.

    Raises:
        ValueError: an array is missing, of another shape, or points nowhere.
    """
    levels = array_in(arrays, "levels", np.int32, (count,))
    if count and not (levels.min() >= 1 and levels.max() <= MAX_LEVELS):
        raise ValueError("array levels is out of range")
    offsets = offsets_of(levels, m)
    neighbours = array_in(arrays, "neighbours", np.int32, (int(offsets[-1]),))
    if len(neighbours) and not (neighbours.min() >= -1 and neighbours.max() < count):
        raise ValueError("array neighbours points outside of the graph")
    entry = array_in(arrays, "entry", np.int64, (1,))
    if not (entry[0] == -1 if not count else 0 <= entry[0] < count):
        raise ValueError("array entry points outside of the graph")
    if count and levels[entry[0]] != levels.max():
        raise ValueError("array entry is not on the highest level")
    _check_levels(levels, offsets, neighbours, m)
    return {"levels": levels, "neighbours": neighbours, "entry": entry}


def write_graph(graph: Any, arrays: Mapping[str, NDArray[Any]], m: int) -> None:
    """Put checked arrays into an empty FAISS graph; its storage is the caller's business."""
    module, hnsw = faiss(), graph.hnsw
    levels = arrays["levels"]
    module.copy_array_to_vector(np.ascontiguousarray(levels), hnsw.levels)
    module.copy_array_to_vector(offsets_of(levels, m).astype(np.uint64), hnsw.offsets)
    _fill(hnsw.neighbors, arrays["neighbours"])
    hnsw.entry_point = int(arrays["entry"][0])
    hnsw.max_level = int(levels.max(initial=0)) - 1


def _fill(vector: Any, values: NDArray[Any]) -> None:
    # FAISS has no copy function in Python for this type of vector; its memory is written through a view.
    vector.resize(len(values))
    if len(values):
        faiss().rev_swig_ptr(vector.data(), len(values))[:] = values


def _check_levels(levels: NDArray[np.int32], offsets: Keys, neighbours: Links, m: int) -> None:
    """On a level above the lowest, neighbours must reach that level too: FAISS reads their links there."""
    for level in range(1, int(levels.max(initial=1))):
        owners = np.flatnonzero(levels > level)
        links = neighbours[offsets[owners][:, None] + (level + 1) * m + np.arange(m)]
        if (levels[links[links >= 0]] <= level).any():
            raise ValueError("array neighbours leads to a vector that is not on its level")
