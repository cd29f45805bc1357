"""Structures of every kind: built from vectors, or unpacked from arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from duality.index.structures.base import Arrays, Setting, Structure
from duality.index.structures.checks import damaged
from duality.index.structures.exact import Exact
from duality.index.structures.hnsw import Hnsw
from duality.index.structures.ivf import Ivf
from duality.index.structures.matrix import Keys, Matrix32

KINDS: Mapping[str, type[Structure]] = {
    "exact": Exact, "hnsw": Hnsw, "ivf": Ivf, "ivfpq": Ivf, "sq8": Ivf, "rabitq": Ivf,
}  # fmt: skip


def build_structure(
    options: Setting,
    keys: Keys,
    vectors: Matrix32,
    *,
    queries: Matrix32 | None = None,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Structure:
    """Build a structure from nothing.

    Args:
        options: `IndexSpec.options()`.
        keys: int64 [N], ascending, no repeats.
        vectors: float32 [N, D], finite; may be mapped from a file larger than memory. Kept and
            read from as long as the structure lives, never written to.
        queries: float32 [S, D], of the kind that will be asked, if known; search settings are measured
            with some of them too.
        device: where k-means runs, as torch names it; None for FAISS on the processor.
        progress: called with numbers of rows that add up to N.

    Raises:
        InputError: the device cannot be used.
        ValueError: shapes differ, or a key is out of range or repeated.
    """
    keys = np.ascontiguousarray(keys, np.int64)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(keys):
        raise ValueError(f"{len(keys)} keys and vectors {vectors.shape}")
    settings = {**options}
    if settings["kind"] == "exact":
        structure: Structure = Exact.build(settings, keys, vectors)
        if progress:
            progress(len(keys))
        return structure
    if settings["kind"] == "hnsw":
        return Hnsw.build(settings, keys, vectors, queries=queries, progress=progress)
    return Ivf.build(settings, keys, vectors, queries=queries, device=device, progress=progress)


def unpack_structure(settings: Mapping[str, Any], arrays: Arrays) -> Structure:
    """A structure over arrays that `pack` gave, read in place, perhaps mapped from files.

    Cost: O(keys + lists); the matrix is not read.

    Raises:
        DamageError: settings and arrays do not fit together.
    """
    kind = settings.get("kind") if isinstance(settings, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise damaged(f"unknown kind of structure {kind!r}")
    return KINDS[kind].unpack(settings, arrays)
