"""A graph without its removed vectors: links to them are replaced by links to what they linked to.

Cost: per link to a removed vector, a few distances. Nothing else is touched, so packing a graph of
which little was removed costs little more than copying it.

Shapes: P positions before, N live ones, W links per vector on a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.graph import Links, offsets_of
from duality.index.structures.matrix import Keys

# How many links of a removed vector are looked at; FAISS keeps the nearest first.
LOOKED_AT = 24
CANDIDATES = 96
OWNERS, CHOOSING = 16_384, 256


def without_dead(
    graph: Mapping[str, NDArray[Any]], m: int, live: NDArray[np.bool_], vectors: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """The graph over live positions, renumbered in order.

    Args:
        graph: `levels`, `neighbours`, `entry` of P positions.
        m: links per vector and level, twice that on the lowest.
        live: bool [P], at least one.
        vectors: float32 [P, D + 1]; a higher product is nearer.
    """
    levels, neighbours = graph["levels"], graph["neighbours"]
    offsets, survivors = offsets_of(levels, m), np.flatnonzero(live)
    kept = levels[survivors]
    new_offsets = offsets_of(kept, m)
    number = np.where(live, np.cumsum(live) - 1, -1).astype(np.int32)
    result = np.full(int(new_offsets[-1]), -1, np.int32)
    for level in range(int(kept.max())):
        start, width = (0, 2 * m) if level == 0 else ((level + 1) * m, m)
        owners = np.flatnonzero(kept > level)
        places = new_offsets[owners] + start
        for block in range(0, len(owners), OWNERS):
            part = slice(block, block + OWNERS)
            rows = _rows(neighbours, offsets + start, survivors[owners[part]], width, levels > level)
            repaired = _repaired(rows, survivors[owners[part]], live, neighbours, offsets + start, vectors)
            result[places[part][:, None] + np.arange(width)] = np.where(repaired >= 0, number[repaired], -1)
    entry = int(graph["entry"][0])
    start_at = number[entry] if live[entry] and levels[entry] == kept.max() else int(np.argmax(kept))
    return {"levels": kept, "neighbours": result, "entry": np.array([start_at], np.int64)}


def _rows(neighbours: Links, starts: Keys, owners: Keys, width: int, on_level: NDArray[np.bool_]) -> Links:
    rows = neighbours[starts[owners][:, None] + np.arange(width)]
    return np.where((rows >= 0) & on_level[np.maximum(rows, 0)], rows, -1)


def _repaired(
    rows: Links,
    owners: Keys,
    live: NDArray[np.bool_],
    neighbours: Links,
    starts: Keys,
    vectors: NDArray[np.float32],
) -> Links:
    """Links [n, W] of live owners [n], those to dead vectors replaced."""
    dead = (rows >= 0) & ~live[np.maximum(rows, 0)]
    kept = _to_front(np.where(dead, -1, rows))
    hit = np.flatnonzero(dead.any(axis=1))
    for start in range(0, len(hit), CHOOSING):
        part = hit[start : start + CHOOSING]
        row, target = _beyond(rows[part], dead[part], owners[part], live, neighbours, starts)
        old = kept[part] >= 0
        row = np.concatenate([row, np.nonzero(old)[0]])
        target = np.concatenate([target, kept[part][old]])
        kept[part] = _chosen(row, target, owners[part], len(live), rows.shape[1], vectors)
    return kept


def _chosen(
    row: Keys, target: Keys, owners: Keys, size: int, width: int, vectors: NDArray[np.float32]
) -> Links:
    """The links that FAISS would keep: nearest first, none that is nearer to a kept one than to its owner."""
    pairs = np.unique(row * size + target)
    row, target = pairs // size, pairs % size
    near = np.einsum("nd,nd->n", vectors[owners[row]], vectors[target])
    order = np.lexsort((-near, row))
    row, target, near = row[order], target[order], near[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    fits = place < CANDIDATES
    row, place = row[fits], place[fits]
    candidates = np.full((len(owners), CANDIDATES), -1, np.int64)
    nearness = np.full((len(owners), CANDIDATES), -np.inf, np.float32)
    candidates[row, place], nearness[row, place] = target[fits], near[fits]
    among = vectors[np.maximum(candidates, 0)]
    taken = _spread(np.matmul(among, among.transpose(0, 2, 1)), nearness, width)
    order = np.argsort(~taken, axis=1, kind="stable")[:, :width]
    return np.where(np.take_along_axis(taken, order, 1), np.take_along_axis(candidates, order, 1), -1)


def _spread(mutual: NDArray[np.float32], nearness: NDArray[np.float32], width: int) -> NDArray[np.bool_]:
    """Which candidates [n, C] to keep, by their similarity to each other [n, C, C] and to the owner [n, C]."""
    taken = np.zeros(nearness.shape, np.bool_)
    for column in range(nearness.shape[1]):
        own = nearness[:, column]
        crowded = (taken & (mutual[:, column] > own[:, None])).any(axis=1)
        taken[:, column] = (own > -np.inf) & ~crowded & (taken.sum(axis=1) < width)
    return taken


def _beyond(
    rows: Links,
    dead: NDArray[np.bool_],
    owners: Keys,
    live: NDArray[np.bool_],
    neighbours: Links,
    starts: Keys,
) -> tuple[Keys, Keys]:
    """Row numbers and live positions that dead links lead on to."""
    looked_at = min(LOOKED_AT, rows.shape[1])
    row = np.repeat(np.nonzero(dead)[0], looked_at)
    target = neighbours[starts[rows[dead]][:, None] + np.arange(looked_at)].ravel().astype(np.int64)
    good = (target >= 0) & live[np.maximum(target, 0)] & (target != owners[row])
    return row[good], target[good]


def _to_front(rows: Links) -> Links:
    # FAISS stops reading links at the first -1.
    return np.take_along_axis(rows, np.argsort(rows < 0, axis=1, kind="stable"), 1)
