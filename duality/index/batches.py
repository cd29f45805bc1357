"""What may enter the store: a batch is checked whole before anything of it is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from duality.errors import DataError, InputError

MAX_ID_BYTES = 1024
# BLAS takes the dot product of so many values on the calling thread.
_FEW_VALUES = 8_192


def check_ids(ids: Sequence[str]) -> list[str]:
    """Ids as a list.

    Raises:
        DataError: an id that is not text, is empty, too long, not valid Unicode or holds NUL,
            or that came before in the batch; names the first such row.
    """
    if isinstance(ids, str):
        raise InputError("ids must be a list of text, not one text")
    seen: set[str] = set()
    for row, id in enumerate(ids, 1):
        problem = _id_problem(id)
        if problem is None and id in seen:
            problem = f"id {id} comes twice in the batch"
        if problem:
            raise DataError(problem, row=row, column="id")
        seen.add(id)
    return list(ids)


def _id_problem(id: object) -> str | None:
    if not isinstance(id, str):
        return f"id {id!r} is not text"
    if not id:
        return "empty id"
    try:
        encoded = id.encode()
    except UnicodeEncodeError:
        return "id is not valid Unicode"
    if len(encoded) > MAX_ID_BYTES:
        return f"id longer than {MAX_ID_BYTES:,} bytes"
    return "id holds a NUL character" if b"\0" in encoded else None


def check_vectors(vectors: NDArray[np.float32], dim: int, *, rows: int | None = None) -> NDArray[np.float32]:
    """Vectors as contiguous float32 [N, dim].

    Args:
        vectors: NumPy float32, 2-dimensional.
        dim: what the side stores.
        rows: N that it must have, if known.

    Raises:
        DataError: wrong type or shape, or a value that is not finite or so large that an
            inner product would overflow; names the first such row.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        found = vectors.dtype if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise DataError(f"vectors must be a NumPy array of float32, not {found}")
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise DataError(f"vectors have shape {vectors.shape}; this side stores [N, {dim}]")
    if rows is not None and len(vectors) != rows:
        raise DataError(f"{len(vectors)} vectors for {rows} ids")
    # The limit leaves room for the product of two such vectors in float32.
    limit = 1e18 / max(dim, 1)
    # Squares that sum up to less cannot hide a value beyond the limit, nor NaN; one pass, for small batches.
    few = vectors.size <= _FEW_VALUES and vectors.flags.c_contiguous
    if few and np.vdot(vectors, vectors) <= limit**2:
        return vectors
    # The ends of the range, without a copy of absolute values; NaN is in no range.
    if not (-limit <= vectors.min(initial=0.0) and vectors.max(initial=0.0) <= limit):
        largest = np.abs(vectors).max(axis=1)
        bad = np.flatnonzero(~(largest <= limit))
        problem = "is not finite" if not np.isfinite(largest[bad[0]]) else "has a value too large"
        raise DataError(f"vector {problem}", row=int(bad[0]) + 1, column="vector")
    return np.ascontiguousarray(vectors)
