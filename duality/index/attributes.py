"""Attribute columns: Arrow types to stored values, and back.

Stored form by kind: string text; number integer or real; boolean 0 or 1; date ISO text in UTC
(predicates.canonical_date); list JSON text. Missing values and NaN are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from duality.errors import DataError
from duality.predicates import canonical_date

if TYPE_CHECKING:
    import pyarrow as pa

RESERVED = ("id", "vector")
MAX_COLUMNS = 500


@dataclass(frozen=True)
class Column:
    """One attribute of a batch: kind and stored values, one per row."""

    kind: str
    values: list[Any]

    def take(self, rows: Sequence[int]) -> Column:
        """The given rows, in that order."""
        return Column(self.kind, [self.values[row] for row in rows])


def columns_from(table: pa.Table | None, rows: int) -> dict[str, Column]:
    """Attribute columns of an Arrow table; columns `id` and `vector` are left out.

    Raises:
        DataError: row counts differ, too many columns, or a type that cannot be an attribute.
    """
    if table is None:
        return {}
    if table.num_rows != rows:
        raise DataError(f"{table.num_rows} attribute rows for {rows} ids")
    names = [name for name in table.column_names if name not in RESERVED]
    if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
        raise DataError(f"attribute columns must have different names and be at most {MAX_COLUMNS}")
    return {name: _column(name, table.column(name)) for name in names}


def _column(name: str, values: pa.ChunkedArray) -> Column:
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = _kind(name, values.type)
    if types.is_timestamp(values.type):
        zone = "UTC" if values.type.tz else None
        values = values.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.timestamp("us"))
    elif types.is_decimal(values.type) or types.is_uint64(values.type):
        values = values.cast(pa.float64(), safe=False)
    return Column(kind, _stored(name, kind, values.to_pylist()))


def _kind(name: str, type: pa.DataType) -> str:
    from pyarrow import types

    if types.is_string(type) or types.is_large_string(type) or types.is_null(type):
        return "string"
    if types.is_boolean(type):
        return "boolean"
    if types.is_integer(type) or types.is_floating(type) or types.is_decimal(type):
        return "number"
    if types.is_date(type) or types.is_timestamp(type):
        return "date"
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        return "list"
    raise DataError(f"type {type} cannot be an attribute: give text, numbers, dates or lists", column=name)


def _stored(name: str, kind: str, values: list[Any]) -> list[Any]:
    match kind:
        case "boolean":
            return [None if value is None else int(value) for value in values]
        case "date":
            return [None if value is None else canonical_date(value) for value in values]
        case "list":
            return [None if value is None else _list_text(name, value) for value in values]
        case "number":
            return _finite(name, values)
        case _:
            return values


def _finite(name: str, values: list[Any]) -> list[Any]:
    for row, value in enumerate(values, 1):
        if isinstance(value, float) and math.isinf(value):
            raise DataError("an infinite number", row=row, column=name)
    return [None if value is None or value != value else value for value in values]


def _list_text(name: str, value: Sequence[Any]) -> str:
    if any(isinstance(element, list | dict | bytes) for element in value):
        raise DataError("lists of lists, structs or bytes cannot be attributes", column=name)
    finite = [None if isinstance(e, float) and not math.isfinite(e) else e for e in value]
    return json.dumps(finite, ensure_ascii=False, default=str)


def outside(kind: str, stored: Any) -> Any:
    """A stored value as people and JSON see it."""
    if stored is None:
        return None
    if kind == "boolean":
        return bool(stored)
    return json.loads(stored) if kind == "list" else stored


def arrow_column(kind: str, stored: Sequence[Any], *, elements: str, whole: bool, days: bool) -> pa.Array:
    """Stored values as an Arrow array.

    Args:
        kind: the column's kind.
        stored: values as the store holds them.
        elements: "string" or "number": what lists of this column hold.
        whole: every number of the column is an integer.
        days: every date of the column is a date without time.
    """
    import pyarrow as pa
    from pyarrow import compute

    match kind:
        case "string":
            return pa.array(stored, pa.string())
        case "number":
            return pa.array(stored, pa.int64() if whole else pa.float64())
        case "boolean":
            return pa.array([None if value is None else bool(value) for value in stored], pa.bool_())
        case "date":
            times = compute.cast(pa.array(stored, pa.string()), pa.timestamp("us"))
            return times.cast(pa.date32()) if days else times
        case _:
            lists = [outside("list", value) for value in stored]
            if elements == "number":
                return pa.array(lists, pa.list_(pa.float64()))
            texts = [None if v is None else [None if e is None else str(e) for e in v] for v in lists]
            return pa.array(texts, pa.list_(pa.string()))
