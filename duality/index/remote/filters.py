"""Filters as Milvus expressions that never hold text from outside.

A literal goes into an expression only when it is a boolean, a number that a double holds exactly,
or text of the characters in _PLAIN; ids are stored quoted (schema.py). Whatever cannot be said
like that, or means something else on the server (numbers in lists, null under `not`), becomes a
wider condition, and the caller finishes with `matcher`.

Null: `not` is pushed down to the comparisons, and each comparison asks for presence (the field
`have`) itself, so every expression is plainly true or false for every row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from duality.index.remote.ledger import State
from duality.index.remote.rows import id_of, key_of
from duality.predicates import canonical_date, columns_of, evaluate, parse, to_sql
from duality.predicates_syntax import Compare, In, IsNull, Junction, Node, Not, Predicate

ALL = 'id != ""'
NONE = 'id == ""'
_PLAIN = re.compile(r"[A-Za-z0-9 _.,:;'/+@#&()!?*=<>|~-]*")
_RUN = re.compile(r"[A-Za-z0-9 ]+")
_MAX_VALUES = 200
_MAX_EXPRESSION = 500_000
# Beyond this a double no longer tells neighbouring integers apart.
_EXACT = 2**53
_SIGNS = {"=": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Condition:
    """`expression` selects at least the matching rows, and only those when `matcher` is None."""

    expression: str
    matcher: Callable[[Row], bool] | None = None


@dataclass(frozen=True)
class _Part:
    text: str
    exact: bool


def condition_of(where: str | None, state: State) -> Condition:
    """Translate a filter.

    Args:
        where: a filter, or None for all records.
        state: the side's columns.

    Raises:
        FilterError: it does not parse or does not fit the columns.
    """
    if where is None:
        return Condition(ALL)
    predicate = parse(where)
    kinds = {**state.kinds(), "id": "string"}
    to_sql(predicate, kinds)  # checks names, operators and values
    part = _Writer(kinds, state.slots()).write(predicate.root, False)
    if len(part.text) > _MAX_EXPRESSION:
        part = _Part(ALL, False)
    return Condition(part.text, None if part.exact else _matcher(predicate, state))


def _matcher(predicate: Predicate, state: State) -> Callable[[Row], bool]:
    """Whether a fetched row (`id`, `attributes`) matches."""
    slots, kinds = state.slots(), state.kinds()
    places = {name: f"a{slots[name]}" for name in columns_of(predicate) if name in slots}
    dates = [name for name in places if kinds[name] == "date"]

    def matches(row: Row) -> bool:
        values = {name: row["attributes"].get(place) for name, place in places.items()}
        for name in dates:
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        return evaluate(predicate, {**values, "id": id_of(row["id"])})

    return matches


class _Writer:
    def __init__(self, kinds: Mapping[str, str], slots: Mapping[str, int]) -> None:
        self.kinds, self.slots = kinds, slots

    def write(self, node: Node, negated: bool) -> _Part:
        match node:
            case Not(term):
                return self.write(term, not negated)
            case Junction(word, terms):
                # not (a and b) is (not a) or (not b), also with null.
                joined = {"and": "or", "or": "and"}[word] if negated else word
                return _join(joined, [self.write(term, negated) for term in terms])
            case IsNull(column):
                return _Part(self._present(column, wanted=negated), True)
            case In():
                return self._in(node, negated)
            case Compare(operator="contains"):
                return self._contains(node, negated)
            case Compare(column, _, sign, value):
                return self._compare(column, _OPPOSITE[sign] if negated else sign, value.value)

    def _present(self, column: str, *, wanted: bool = True) -> str:
        if column not in self.slots:  # the id, which every record has
            return ALL if wanted else NONE
        held = f"array_contains(have, {self.slots[column]})"
        return held if wanted else f"(not {held})"

    def _wider(self, column: str) -> _Part:
        return _Part(self._present(column), False)

    def _compare(self, column: str, sign: str, value: Any) -> _Part:
        if self.kinds[column] == "date":
            value = canonical_date(value)
        if column not in self.slots:
            # Quoting keeps equality but not order.
            equality = sign in ("=", "!=")
            return _Part(f'(id {_SIGNS[sign]} "{key_of(value)}")', True) if equality else self._wider(column)
        literal = _literal(value)
        if literal is None:
            return self._wider(column)
        comparison = f'attributes["a{self.slots[column]}"] {_SIGNS[sign]} {literal}'
        return _Part(f"({self._present(column)} and {comparison})", True)

    def _in(self, node: In, negated: bool) -> _Part:
        values = [value.value for value in node.values]
        if node.column not in self.slots:
            listed = ids_condition([str(value) for value in values])
            return _Part(f"(not {listed})" if negated else listed, True)
        if len(values) > _MAX_VALUES:
            return self._wider(node.column)
        # A chain of comparisons, since `in` on JSON values is not understood everywhere.
        sign, word = ("!=", "and") if negated else ("=", "or")
        return _join(word, [self._compare(node.column, sign, value) for value in values])

    def _contains(self, node: Compare, negated: bool) -> _Part:
        column, value = node.column, node.value.value
        if column not in self.slots or not isinstance(value, str):
            return self._wider(column)
        place = f'attributes["a{self.slots[column]}"]'
        if self.kinds[column] == "list":
            literal = _literal(value)
            return (
                self._wider(column)
                if literal is None
                else self._held(column, f"json_contains({place}, {literal})", negated)
            )
        run = max(_RUN.findall(value), key=len, default="")
        whole = bool(run) and run == value
        if not run or (negated and not whole):
            return self._wider(column)
        return _Part(self._held(column, f'{place} like "%{run}%"', negated).text, whole)

    def _held(self, column: str, test: str, negated: bool) -> _Part:
        return _Part(f"({self._present(column)} and {f'(not {test})' if negated else f'({test})'})", True)


def _join(word: str, parts: list[_Part]) -> _Part:
    text = f" {word} ".join(dict.fromkeys(part.text for part in parts))
    return _Part(f"({text})", all(part.exact for part in parts))


def _literal(value: Any) -> str | None:
    """A value as it may stand in an expression, or None when it must not."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if abs(value) < _EXACT else None
    return f'"{value}"' if _PLAIN.fullmatch(value) else None


def ids_condition(ids: list[str]) -> str:
    """An expression for the records with these ids."""
    return "id in [" + ", ".join(f'"{key_of(id)}"' for id in ids) + "]"
