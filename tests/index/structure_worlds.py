"""Vectors for structures, brute-force answers, and structures as a file would give them back."""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.index.spec import spec_named
from duality.index.structures.base import Streamed, Structure
from duality.index.structures.build import build_structure, unpack_structure

KINDS = ("exact", "ivf", "sq8", "ivfpq", "rabitq", "hnsw")


def clusters(rows: int, dim: int = 24, seed: int = 0, centres: int = 30, world: int = 9) -> np.ndarray:
    """float32 [rows, dim] around centres, of lengths that differ fourfold."""
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(world).normal(size=(centres, dim))
    vectors = middle[rng.integers(0, centres, rows)] + 0.4 * rng.normal(size=(rows, dim))
    return (vectors * rng.uniform(0.5, 2.0, (rows, 1))).astype(np.float32)


def decaying(rows: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    """float32 [rows, dim] without clusters, of decaying spectrum."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, dim)) * np.arange(1, dim + 1) ** -0.5).astype(np.float32)


def made(kind: str, keys: np.ndarray, vectors: np.ndarray, **options: Any) -> Structure:
    """A structure of a kind with the spec's defaults."""
    light = {"ef_construction": 60} if kind == "hnsw" else {}
    return build_structure({**spec_named(kind).options(), **light, **options}, keys, vectors)


def packed(structure: Structure) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays as they lie in files."""
    settings, arrays = structure.pack()
    return settings, {
        name: value.array() if isinstance(value, Streamed) else np.array(value)
        for name, value in arrays.items()
    }


def reopened(structure: Structure) -> Structure:
    """Packed and unpacked over read-only arrays."""
    settings, arrays = packed(structure)
    for array in arrays.values():
        array.flags.writeable = False
    return unpack_structure(settings, arrays)


def truth(
    keys: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and keys [Q, k] in double precision, ties by key."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(keys, scores.shape), -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), keys[order]


def recall(found: np.ndarray, right: np.ndarray) -> float:
    """index_recall@k."""
    return float((found[:, :, None] == right[:, None, :]).any(axis=1).mean())
