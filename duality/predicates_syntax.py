"""Syntax of filters over attribute columns: text to a tree.

    country = 'DE' and age >= 18 and not (genres contains 'Comedy' or id in ('1', '2'))

Grammar: `and or not ( )`, `= != < <= > >=`, `in (...)`, `contains`, `is null`, `is not null`,
`not in`, `not contains`. Keywords in any case. Strings and dates stand in single quotes (''
is one quote), numbers and true/false without; a column is bare or in double quotes.

What a tree means, in Python and in SQL, is in predicates.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from duality.errors import FilterError

Literal = str | int | float | bool

MAX_LENGTH = 200_000
# SQLite's parser stack holds 100 symbols, and one level here can need six of them.
MAX_DEPTH = 12
# SQLite refuses expression trees deeper than 1,000, and a chain of n terms is n deep.
MAX_TERMS = 400
MAX_VALUES = 10_000


@dataclass(frozen=True)
class Value:
    """A literal and where it stands in the expression."""

    value: Literal
    position: int


@dataclass(frozen=True)
class Compare:
    """`column operator value`; operator is one of = != < <= > >= contains."""

    column: str
    position: int
    operator: str
    value: Value


@dataclass(frozen=True)
class In:
    """`column in (values)`."""

    column: str
    position: int
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    """`column is null`."""

    column: str
    position: int


@dataclass(frozen=True)
class Not:
    """`not term`."""

    term: Node


@dataclass(frozen=True)
class Junction:
    """`terms` joined by `and` or by `or`; at least two."""

    word: str
    terms: tuple[Node, ...]


Node = Compare | In | IsNull | Not | Junction


@dataclass(frozen=True)
class Predicate:
    """A parsed filter; `expression` is kept for messages."""

    expression: str
    root: Node


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


_TOKENS = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')"
    r'|(?P<quoted>"(?:[^"]|"")+")'
    r"|(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"
    r"|(?P<word>[^\W\d]\w*)"
    r"|(?P<symbol><=|>=|!=|[=<>(),]))"
)
_KEYWORDS = {"and", "or", "not", "in", "contains", "is", "null", "true", "false"}
_COMPARISONS = {"=", "!=", "<", "<=", ">", ">="}


def filter_error(what: str, expression: str, position: int) -> FilterError:
    """The error of a filter; a long expression is shown only around the position."""
    shown = expression
    if len(expression) > 300:
        shown = f"…{expression[max(position - 100, 0) : position + 100]}…"
    return FilterError(what, expression=shown, position=position)


def parse(text: str) -> Predicate:
    """Parse a filter expression.

    Raises:
        FilterError: bad syntax, or longer or deeper than the limits of this module.
    """
    if len(text) > MAX_LENGTH:
        raise filter_error(f"longer than {MAX_LENGTH:,} characters", text, MAX_LENGTH)
    return Predicate(text, _Parser(text).whole())


def nodes(root: Node) -> Iterator[Compare | In | IsNull]:
    """Every node that names a column, left to right."""
    match root:
        case Not(term):
            yield from nodes(term)
        case Junction(_, terms):
            for term in terms:
                yield from nodes(term)
        case _:
            yield root


def columns_of(predicate: Predicate) -> set[str]:
    """Names of the columns that a filter reads."""
    return {node.column for node in nodes(predicate.root)}


class _Parser:
    """Recursive descent; one method per level of binding strength."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._lex())
        self.at = self.depth = self.terms = self.values = 0

    def _lex(self) -> Iterator[_Token]:
        position, end = 0, len(self.text.rstrip())
        while position < end:
            found = _TOKENS.match(self.text, position)
            if not found:
                start = position + len(self.text[position:]) - len(self.text[position:].lstrip())
                unclosed = self.text[start] in "'\""
                self._fail("a quote is not closed" if unclosed else f"unexpected {self.text[start]!r}", start)
            kind = str(found.lastgroup)
            raw, start = found[kind], found.start(kind)
            if kind == "word" and raw.lower() in _KEYWORDS:
                kind, raw = "keyword", raw.lower()
            yield _Token(kind, raw, start)
            position = found.end()
        yield _Token("end", "the end", len(self.text))

    def whole(self) -> Node:
        root = self._junction("or")
        if self._now.kind != "end":
            self._fail(f"expected `and`, `or` or the end, found {self._now.text}")
        return root

    @property
    def _now(self) -> _Token:
        return self.tokens[self.at]

    def _fail(self, what: str, position: int | None = None) -> NoReturn:
        raise filter_error(what, self.text, self._now.position if position is None else position)

    def _take(self, *texts: str) -> bool:
        if self._now.kind in ("keyword", "symbol") and self._now.text in texts:
            self.at += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            self._fail(f"expected {text}, found {self._now.text}")

    def _junction(self, word: str) -> Node:
        below = self._negation if word == "and" else lambda: self._junction("and")
        terms = [below()]
        while self._take(word):
            terms.append(below())
        return terms[0] if len(terms) == 1 else Junction(word, tuple(terms))

    def _negation(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}")
        if self._take("not"):
            node: Node = Not(self._negation())
        elif self._take("("):
            node = self._junction("or")
            self._need(")")
        else:
            node = self._term()
        self.depth -= 1
        return node

    def _term(self) -> Node:
        self.terms += 1
        if self.terms > MAX_TERMS:
            self._fail(f"more than {MAX_TERMS} comparisons; use `in (...)`")
        column, position = self._column()
        if self._take("is"):
            negated = self._take("not")
            self._need("null")
            return Not(IsNull(column, position)) if negated else IsNull(column, position)
        negated = self._take("not")
        node = self._comparison(column, position, words_only=negated)
        return Not(node) if negated else node

    def _column(self) -> tuple[str, int]:
        token = self._now
        if token.kind not in ("word", "quoted"):
            self._fail(f"expected a column, found {token.text}")
        self.at += 1
        name = token.text if token.kind == "word" else token.text[1:-1].replace('""', '"')
        return name, token.position

    def _comparison(self, column: str, position: int, *, words_only: bool) -> Node:
        if self._take("in"):
            return In(column, position, self._list())
        if self._take("contains"):
            return Compare(column, position, "contains", self._literal())
        sign = self._now.text
        if words_only or not self._take(*_COMPARISONS):
            self._fail(f"expected a comparison after {column}, found {sign}")
        return Compare(column, position, sign, self._literal())

    def _list(self) -> tuple[Value, ...]:
        self._need("(")
        values = [self._literal()]
        while self._take(","):
            values.append(self._literal())
        self._need(")")
        return tuple(values)

    def _literal(self) -> Value:
        token = self._now
        self.values += 1
        if self.values > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES:,} values")
        if token.kind == "string":
            value: Literal = self._string(token)
        elif token.kind == "number":
            value = self._number(token)
        elif token.kind == "keyword" and token.text in ("true", "false"):
            value = token.text == "true"
        elif token.text == "null":
            self._fail("nothing equals null; write `is null` or `is not null`")
        else:
            self._fail(
                f"expected a value ('text' in single quotes, a number, true or false), found {token.text}"
            )
        self.at += 1
        return Value(value, token.position)

    def _string(self, token: _Token) -> str:
        value = token.text[1:-1].replace("''", "'")
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            self._fail("text with a NUL or a lone surrogate", token.position)
        return value

    def _number(self, token: _Token) -> int | float:
        # Beyond 18 digits an integer may not fit the stores' 64 bits.
        if token.text.lstrip("+-").isdigit() and len(token.text.lstrip("+-0")) <= 18:
            return int(token.text)
        value = float(token.text)
        if math.isinf(value):
            self._fail("number too large", token.position)
        return value
