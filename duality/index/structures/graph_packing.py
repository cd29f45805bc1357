"""A graph packed without its removed vectors, every live one still reachable.

Shapes: P positions, N live ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.graph import new_graph, offsets_of, read_graph, write_graph
from duality.index.structures.matrix import Keys, Matrix32
from duality.index.structures.repair import without_dead

GraphArrays = dict[str, NDArray[Any]]


def storage_rows(graph: Any) -> Matrix32:
    """The vectors that a FAISS graph holds, [P, D + 1]: a view, invalid after the next add."""
    storage = faiss().downcast_index(graph.storage)
    if not storage.ntotal:
        return np.empty((0, storage.d), np.float32)
    return faiss().rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d).reshape(-1, storage.d)


def fill_graph(graph: Any, arrays: GraphArrays, m: int, rows: Matrix32) -> None:
    """Put checked arrays and the vectors [N, D + 1] into an empty FAISS graph."""
    write_graph(graph, arrays, m)
    graph.storage.add(rows)
    graph.ntotal = len(rows)


def compacted(
    graph: Any, live: NDArray[np.bool_], settings: Mapping[str, Any], *, anew: bool
) -> tuple[GraphArrays, Keys]:
    """Arrays of the graph over live positions, and those positions in their new order, int64 [N].

    Args:
        graph: the FAISS graph of P positions.
        live: bool [P].
        settings: `m` and `ef_construction`.
        anew: build it from nothing, instead of repairing links to removed vectors.
    """
    rows, order, m = storage_rows(graph), np.flatnonzero(live), settings["m"]
    fresh = new_graph(rows.shape[1], m, settings["ef_construction"])
    if anew or not len(order):
        fresh.add(rows[order])
        return read_graph(fresh), order
    arrays = without_dead(read_graph(graph), m, live, rows)
    lost = ~reachable(arrays, m)
    if not lost.any():
        return arrays, order
    # Those that only removed vectors led to are inserted anew, at the end.
    keep = ~lost
    arrays = without_dead(arrays, m, keep, rows[order])
    order = np.concatenate([order[keep], order[lost]])
    fill_graph(fresh, arrays, m, rows[order[: int(keep.sum())]])
    fresh.add(rows[order[int(keep.sum()) :]])
    return read_graph(fresh), order


def reachable(arrays: GraphArrays, m: int) -> NDArray[np.bool_]:
    """bool [N]: which vectors the links of the lowest level lead to from the entry."""
    levels, neighbours = arrays["levels"], arrays["neighbours"]
    starts = offsets_of(levels, m)[:-1]
    seen = np.zeros(len(levels), np.bool_)
    front = np.array(arrays["entry"])
    seen[front] = True
    while len(front):
        links = neighbours[starts[front][:, None] + np.arange(2 * m)].ravel()
        links = links[links >= 0]
        fresh = np.unique(links[~seen[links]])
        seen[fresh] = True
        front = fresh
    return seen
