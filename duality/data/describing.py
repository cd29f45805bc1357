"""Attributes that are more than values: texts, which a text model turns into vectors, and vectors from elsewhere.

Shapes: N rows of a side, W values of a described row, one part after another: what its texts say, then its vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from duality.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

Embed = Callable[[list[str]], np.ndarray]  # texts to float32 [texts, width]


@dataclass(frozen=True, eq=False)
class Described:
    """What texts and vectors say of N rows.

    Attributes:
        vectors: float32 [N, W]; a part that a row lacks is 0.
        widths: of the parts; of texts first, if there are any.
        keys: int64 [N], of the rows' texts, 0 for none: the same text has the same key.
    """

    vectors: np.ndarray
    widths: tuple[int, ...]
    keys: np.ndarray


def texts_of(table: pa.Table, names: Sequence[str]) -> list[str]:
    """One text a row, `title: Heat. genres: Crime, Drama`; empty where a row has none of the columns."""
    import pyarrow.types as types

    rows: list[list[str]] = [[] for _ in range(len(table))]
    for name in names:
        if name in table.column_names:
            column = table.column(name)
            lists = types.is_list(column.type) or types.is_large_list(column.type)
            for row, value in zip(rows, column.to_pylist()):
                said = ", ".join(str(v) for v in value or () if v is not None) if lists else str(value or "")
                if said:
                    row.append(f"{name}: {said}")
    return [". ".join(parts) for parts in rows]


def vectors_of(column: pa.ChunkedArray, name: str, side: str, width: int = 0) -> np.ndarray:
    """float32 [N, width] of a column of lists of numbers; rows without one are 0.

    Args:
        width: that every list must have; 0 takes that of the first.

    Raises:
        InputError: another length, no list at all, or not of numbers.
    """
    values = column.to_pylist()
    given = [row for row, value in enumerate(values) if value is not None]
    try:
        width = width or len(values[given[0]])
        found = np.zeros((len(values), width), np.float32)
        for row in given:
            if len(values[row]) != width:
                raise InputError(
                    f"attribute '{name}' of {side}: row {row} has {len(values[row])} numbers and not {width}"
                )
            found[row] = values[row]
    except (IndexError, TypeError, ValueError):
        raise InputError(
            f"attribute '{name}' of {side} is no column of lists of numbers: {column.type}"
        ) from None
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise InputError(f"attribute '{name}' of {side}: row {row} has a number that is not finite")
    return found


def embedded(texts: Sequence[str], embed: Embed, known: Described | None) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 [N, width] and keys int64 [N] of texts; those that are known are not embedded again."""
    keys = np.array([_key(text) for text in texts], np.int64)
    distinct, first, place = np.unique(keys, return_index=True, return_inverse=True)
    vectors, missing = _recalled(distinct, known)
    new = np.flatnonzero(missing & (distinct != 0))
    if len(new):
        made = embed([texts[row] for row in first[new]])
        vectors = np.zeros((len(distinct), made.shape[1]), np.float32) if vectors is None else vectors
        vectors[new] = made
    assert vectors is not None, "a side without any text has no text column"
    return vectors[place], keys


def _recalled(distinct: np.ndarray, known: Described | None) -> tuple[np.ndarray | None, np.ndarray]:
    if known is None:
        return None, np.ones(len(distinct), bool)
    order = np.argsort(known.keys, kind="stable")
    at = order[np.searchsorted(known.keys, distinct, sorter=order).clip(max=len(order) - 1)]
    missing = known.keys[at] != distinct
    return np.where(missing[:, None], 0, known.vectors[at, : known.widths[0]]), missing


def _key(text: str) -> int:
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
