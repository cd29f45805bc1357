"""Vectors, attributes and places for the tests of stores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

DIM = 12


@dataclass(frozen=True)
class Backend:
    """How to build and open an index somewhere."""

    name: str
    build: Callable[..., dict[str, Any]]
    open: Callable[..., Any]


def vectors_like_a_model(rows: int, seed: int = 0) -> np.ndarray:
    """float32 [rows, DIM]: clusters, lengths that differ fourfold, then a free bias and a constant 1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(15, DIM))
    found = centres[rng.integers(0, 15, rows)] + 0.4 * rng.normal(size=(rows, DIM))
    found *= rng.uniform(0.5, 2.0, (rows, 1))
    found[:, -2] = rng.normal(size=rows) - 3
    found[:, -1] = 1
    return found.astype(np.float32)


def table(vectors: np.ndarray, ids: list[str] | str = "i", **attributes: Any) -> pa.Table:
    names = [f"{ids}{row}" for row in range(len(vectors))] if isinstance(ids, str) else ids
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table({"id": pa.array(names, pa.string()), "vector": lists, **attributes})


USERS = table(vectors_like_a_model(20, 1), "u")
DAYS = [dt.date(2020, 1, 1) + dt.timedelta(days=40 * row) for row in range(12)]
FACTS: dict[str, Any] = {
    "title": [None if r % 5 == 4 else f"Film {r % 9}: {'ü' * (r % 2)}'{r}'%" for r in range(60)],
    "year": [None if r % 7 == 3 else 1960 + r for r in range(60)],
    "score": pa.array([None if r % 6 == 5 else (r - 30) / 4 for r in range(60)], pa.float64()),
    "seen": [None if r % 4 == 3 else r % 3 == 0 for r in range(60)],
    "day": [None if r % 8 == 1 else DAYS[r % 12] for r in range(60)],
    "tags": [None if r % 9 == 2 else [f"t{r % 4}", "all", 'a"b'][: r % 4] for r in range(60)],
    "sizes": pa.array([None if r % 9 == 5 else [1.0 * (r % 3), 2.5] for r in range(60)]),
}


def rows_of_facts() -> list[dict[str, Any]]:
    columns = {name: pa.array(values).to_pylist() for name, values in FACTS.items()}
    return [{"id": f"i{r}", **{name: held[r] for name, held in columns.items()}} for r in range(60)]
