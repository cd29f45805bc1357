"""Small embedding tables and the brute-force answers that indexes are compared with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def clustered(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """float32 [rows, dim] around 20 centres, of lengths that differ fourfold, last value 1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, dim))
    vectors = centres[rng.integers(0, 20, rows)] + 0.4 * rng.normal(size=(rows, dim))
    vectors *= rng.uniform(0.5, 2.0, (rows, 1))
    vectors[:, -1] = 1
    return vectors.astype(np.float32)


def table(vectors: np.ndarray, prefix: str = "i", **attributes: object) -> pa.Table:
    """The embed format: id, vector, attributes."""
    ids = [f"{prefix}{row}" for row in range(len(vectors))]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table({"id": ids, "vector": lists, **attributes})


def best(vectors: dict[str, np.ndarray], query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """The k largest inner products, in float64."""
    scores = {
        id: float(vector.astype(np.float64) @ query.astype(np.float64)) for id, vector in vectors.items()
    }
    return sorted(scores.items(), key=lambda pair: -pair[1])[:k]
