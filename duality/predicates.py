"""Meaning of filters: as an SQL condition with bound parameters, and in plain Python.

    country = 'DE' and age >= 18 and not (genres contains 'Comedy' or id in ('1', '2'))

Reads:  a tree from predicates_syntax.py (`parse`); column kinds.
Writes: SQL made only of quoted column names and `?`; every literal is a parameter.

Null follows SQL: a comparison with null is neither true nor false, so neither `a = 1` nor
`not (a = 1)` matches a row without `a`; ask with `is null`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NoReturn

from duality.errors import suggestion
from duality.predicates_syntax import (
    Compare,
    In,
    IsNull,
    Junction,
    Node,
    Not,
    Predicate,
    Value,
    columns_of,
    filter_error,
    parse,
)

__all__ = ["KINDS", "Predicate", "canonical_date", "columns_of", "evaluate", "parse", "to_sql"]

KINDS = ("string", "number", "boolean", "date", "list")
_SHAPES = {
    "string": "text in single quotes",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date such as '2024-05-01'",
}
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "boolean": (bool,), "number": (int, float)}
_ORDERED = {"<", "<=", ">", ">="}


def to_sql(
    predicate: Predicate,
    columns: Mapping[str, str],
    dialect: str = "sqlite",
    names: Mapping[str, str] | None = None,
) -> tuple[str, list[Any]]:
    """Translate a filter into a condition for a WHERE clause.

    Args:
        predicate: from `parse`.
        columns: column name to kind: string, number, boolean, date or list.
        dialect: "sqlite" (dates are text from `canonical_date`, lists are JSON text, booleans
            0/1) or "duckdb" (its own types; set TimeZone to UTC if columns carry a zone, and turn
            NaN into null: DuckDB ranks it above every number).
        names: column name to the SQL name it is stored under, where they differ.

    Returns:
        The condition with `?` placeholders, and the parameters in their order.

    Raises:
        FilterError: unknown column (near ones suggested), or an operator or value that does
            not fit the column's kind.
    """
    writer = _Writer(predicate.expression, columns, dialect, names or {})
    return writer.write(predicate.root), writer.parameters


class _Writer:
    def __init__(
        self, expression: str, columns: Mapping[str, str], dialect: str, names: Mapping[str, str]
    ) -> None:
        if dialect not in ("sqlite", "duckdb"):
            raise ValueError(f"dialect {dialect!r}")
        self.expression, self.columns, self.dialect, self.names = expression, columns, dialect, names
        self.parameters: list[Any] = []

    def write(self, node: Node) -> str:
        match node:
            case Not(term):
                return f"(NOT {self.write(term)})"
            case Junction(word, terms):
                return "(" + f" {word.upper()} ".join([self.write(term) for term in terms]) + ")"
            case IsNull():
                return f"({self._column(node)} IS NULL)"
            case In(values=values):
                self._check_operator(node, "in")
                column = self._column(node)
                return f"({column} IN ({', '.join([self._bind(node, value) for value in values])}))"
            case Compare():
                self._check_operator(node, node.operator)
                return self._contains(node) if node.operator == "contains" else self._compare(node)

    def _compare(self, node: Compare) -> str:
        sign = "<>" if node.operator == "!=" else node.operator
        return f"({self._column(node)} {sign} {self._bind(node, node.value)})"

    def _contains(self, node: Compare) -> str:
        column, held = self._column(node), node.value.value
        if self._kind(node) == "string":
            call = "instr({}, {}) > 0" if self.dialect == "sqlite" else "contains({}, {})"
            return f"({call.format(column, self._bind(node, node.value))})"
        if isinstance(held, bool):
            self._fail(f"a list has no true or false: {node.column}", node.value.position)
        self.parameters.append(held)
        if self.dialect == "duckdb":
            return f"list_contains({column}, ?)"
        # The CASE keeps null null: EXISTS over a null list would be false and `not` would match it.
        return (
            f"(CASE WHEN {column} IS NULL THEN NULL"
            f" ELSE EXISTS (SELECT 1 FROM json_each({column}) AS element WHERE element.value = ?) END)"
        )

    def _column(self, node: Compare | In | IsNull) -> str:
        self._kind(node)
        return '"' + self.names.get(node.column, node.column).replace('"', '""') + '"'

    def _kind(self, node: Compare | In | IsNull) -> str:
        if node.column not in self.columns:
            near = suggestion(node.column, self.columns)
            known = near or f"; columns: {', '.join(sorted(self.columns)[:20])}"
            self._fail(f"unknown column {node.column}{known}", node.position)
        return self.columns[node.column]

    def _check_operator(self, node: Compare | In, sign: str) -> None:
        kind = self._kind(node)
        fits = {
            "string": True,
            "number": sign != "contains",
            "date": sign != "contains",
            "boolean": sign not in _ORDERED | {"contains"},
            "list": sign == "contains",
        }[kind]
        if not fits:
            mend = f": write {node.column} contains ..." if kind == "list" else ""
            self._fail(f"`{sign}` does not fit column {node.column}, a {kind}{mend}", node.position)

    def _bind(self, node: Compare | In, value: Value) -> str:
        kind, held = self._kind(node), value.value
        if kind == "date" and isinstance(held, str):
            return self._bind_date(node, value)
        fits = isinstance(held, _TYPES.get(kind, ())) and (kind != "number" or not isinstance(held, bool))
        if not fits:
            self._fail(f"column {node.column} is a {kind}: write {_SHAPES[kind]}", value.position)
        self.parameters.append(int(held) if kind == "boolean" and self.dialect == "sqlite" else held)
        return "?"

    def _bind_date(self, node: Compare | In, value: Value) -> str:
        try:
            self.parameters.append(canonical_date(str(value.value)))
        except (ValueError, OverflowError):
            self._fail(f"column {node.column} is a date: write {_SHAPES['date']}", value.position)
        return "?" if self.dialect == "sqlite" else "CAST(? AS TIMESTAMP)"

    def _fail(self, what: str, position: int) -> NoReturn:
        raise filter_error(what, self.expression, position)


def canonical_date(value: str | date | datetime) -> str:
    """ISO 8601 text in UTC that sorts as time does: `2024-05-01`, or `2024-05-01T12:30:00`.

    Midnight is written as the date alone; a value without a zone is taken as UTC.

    Raises:
        ValueError: text that is not an ISO date or time.
    """
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        return moment.isoformat()
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    text = moment.isoformat()
    return text.removesuffix("T00:00:00")


def evaluate(predicate: Predicate, row: Mapping[str, Any]) -> bool:
    """Whether a row matches: the reference that the SQL translations are tested against.

    Args:
        row: column name to str, int, float, bool, date, datetime, list or None (null; so is NaN).
            The types must fit the filter; `to_sql` checks that, this does not.
    """
    return _truth(predicate.root, row) is True


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "contains": operator.contains,
}


def _truth(node: Node, row: Mapping[str, Any]) -> bool | None:
    match node:
        case Not(term):
            truth = _truth(term, row)
            return None if truth is None else not truth
        case Junction(word, terms):
            decisive = word == "or"
            found = {_truth(term, row) for term in terms}
            return decisive if decisive in found else (None if None in found else not decisive)
        case IsNull(column):
            return _is_null(row[column])
        case In(column, _, values):
            held = row[column]
            return None if _is_null(held) else any(_holds("=", held, value) for value in values)
        case Compare(column, _, sign, value):
            return None if _is_null(row[column]) else _holds(sign, row[column], value)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _holds(sign: str, held: Any, value: Value) -> bool:
    if isinstance(held, date):
        return _OPERATORS[sign](canonical_date(held), canonical_date(str(value.value)))
    return _OPERATORS[sign](held, value.value)
