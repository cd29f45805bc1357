"""Records as the server's rows, and back.

Shapes: N rows, D dimensions; a stored vector has D + 1 values (schema.py).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from duality.errors import DataError
from duality.index.attributes import Column
from duality.index.remote.schema import MAX_BYTES, MAX_JSON_BYTES, MAX_ROWS, PARTS

# Vectors may grow to this multiple of the longest at build time before a new build is needed.
HEADROOM = 2.0

Slots = Mapping[int, Any]


def key_of(id: str) -> str:
    """The stored form of an id; holds only [A-Za-z0-9_.~%-]."""
    return quote(id, safe="")


def id_of(key: str) -> str:
    """The id of a stored form."""
    return unquote(key)


def part_of(key: str) -> int:
    """The page that an id belongs to, 0 to PARTS - 1."""
    return zlib.crc32(key.encode()) % PARTS


def longest_of(vectors: NDArray[np.float32]) -> float:
    """M for a new generation: the longest of `vectors` [N, D] with room to grow; 1 without any."""
    longest = float(_lengths(vectors).max(initial=0.0))
    return HEADROOM * longest if longest > 0 else 1.0


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


def extended(vectors: NDArray[np.float32], longest: float) -> NDArray[np.float32]:
    """Vectors [N, D] with the extra value, [N, D + 1], all of length `longest`.

    Raises:
        DataError: a vector is longer than that; names the row.
    """
    lengths = _lengths(vectors)
    bad = np.flatnonzero(lengths > longest)
    if len(bad):
        what = f"vector of length {lengths[bad[0]]:.4g}, but this generation was built for at most"
        raise DataError(f"{what} {longest:.4g}: build the index again", row=int(bad[0]) + 1, column="vector")
    extra = np.sqrt(longest**2 - lengths**2).astype(np.float32)
    return np.hstack([vectors, extra[:, None]])


def queries_of(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Queries [Q, D] with a 0 in the extra place, [Q, D + 1]."""
    return np.hstack([vectors, np.zeros((len(vectors), 1), np.float32)])


def encoded(kind: str, stored: Any) -> Any:
    """A stored value (attributes.py) as JSON holds it."""
    if stored is None:
        return None
    if kind == "boolean":
        return bool(stored)
    return json.loads(stored) if kind == "list" else stored


def decoded(kind: str, value: Any) -> Any:
    """The stored value (attributes.py) of what JSON holds."""
    if value is None:
        return None
    if kind == "boolean":
        return int(value)
    return json.dumps(value, ensure_ascii=False) if kind == "list" else value


def merged(
    ids: Sequence[str],
    held: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, Column],
    slots: Mapping[str, int],
) -> list[dict[int, Any]]:
    """Per row, slot to JSON value: what is stored (fetched rows by id), changed by what comes."""
    found = [slots_in(held[id]) if "attributes" in held.get(id, {}) else {} for id in ids]
    for name, column in columns.items():
        for row, stored in zip(found, column.values):
            row[slots[name]] = encoded(column.kind, stored)
    return [{slot: value for slot, value in row.items() if value is not None} for row in found]


def build_rows(
    ids: Sequence[str], vectors: NDArray[np.float32], attributes: Sequence[Slots], first: int = 1
) -> list[dict[str, Any]]:
    """Rows to send.

    Args:
        ids: N.
        vectors: float32 [N, D + 1], from `extended`.
        attributes: per row, slot to JSON value; nulls are left out.
        first: number of the first row, for messages.

    Raises:
        DataError: the attributes of a row are larger than the server holds; names the row.
    """
    return [
        _row(number, key_of(id), vector, held)
        for number, (id, vector, held) in enumerate(zip(ids, vectors, attributes), first)
    ]


def _row(number: int, key: str, vector: NDArray[np.float32], held: Slots) -> dict[str, Any]:
    attributes = {f"a{slot}": held[slot] for slot in sorted(held)}
    size = len(json.dumps(attributes, ensure_ascii=False).encode())
    if size > MAX_JSON_BYTES:
        raise DataError(f"attributes of {size:,} bytes; a store holds {MAX_JSON_BYTES:,}", row=number)
    return {
        "id": key,
        "vector": vector,
        "attributes": attributes,
        "have": sorted(held),
        "part": part_of(key),
        "crc": row_crc(key, vector, attributes),
    }


def row_crc(key: str, vector: NDArray[np.float32], attributes: Mapping[str, Any]) -> int:
    """CRC-32 of a row."""
    values = np.ascontiguousarray(vector, "<f4").tobytes()
    text = json.dumps(attributes, sort_keys=True)
    return zlib.crc32(text.encode(), zlib.crc32(values, zlib.crc32(key.encode())))


def vectors_in(rows: Sequence[Mapping[str, Any]], dim: int) -> NDArray[np.float32]:
    """Stored vectors of fetched rows with the extra value, float32 [N, D + 1]."""
    return np.array([row["vector"] for row in rows], np.float32).reshape(len(rows), dim + 1)


def slots_in(row: Mapping[str, Any]) -> dict[int, Any]:
    """Slot to JSON value of a fetched row."""
    return {int(name[1:]): value for name, value in row["attributes"].items()}


def calls(rows: Sequence[Mapping[str, Any]], dim: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Rows in portions that fit one call each."""
    start, size = 0, 0
    for end, row in enumerate(rows):
        bytes_of_row = 4 * dim + 200 + len(row["id"]) + len(str(row["attributes"]))
        if end > start and (size + bytes_of_row > MAX_BYTES or end - start >= MAX_ROWS // 2):
            yield rows[start:end]
            start, size = end, 0
        size += bytes_of_row
    if len(rows) > start:
        yield rows[start:]
