"""Attributes of users or items as numbers: which values of which columns each row has.

A vocabulary is made of the rows that training sees and kept with the model, so that rows that come later are
coded alike; what it does not know codes to nothing. Texts, truth values and whole numbers of few values
are categories, lists are several of them, other numbers and dates fall into buckets of about as many rows each;
`NAME:category` and `NAME:number` say which it is (the numbers of authors are categories). `NAME:text` is read by a text
model, `NAME:vector` holds vectors made elsewhere (`duality.data.describing`).

Shapes: N rows, C codes of all rows, V values of all columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.data.describing import Described, Embed, embedded, texts_of, vectors_of
from duality.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.data.ids import Ids

BUCKETS = 16
FEW = 32  # whole numbers with more values than this fall into buckets
LEAST = 2  # rows that a category needs: what a single row has says no more than its id
TEXT, VECTOR = "text", "vector"
KINDS = ("", "category", "number", TEXT, VECTOR)  # what may follow the colon after a name
IDENTITY = "id"  # the column in which every row has a value of its own


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes of N rows, row by row.

    Attributes:
        indptr: int64 [N + 1].
        code: int64 [C], 0 to size - 1.
        weight: float32 [C]; the codes of one column of a row add up to 1.
        size: V.
        described: what texts and vectors say of the rows, if a column is one.
    """

    indptr: np.ndarray
    code: np.ndarray
    weight: np.ndarray
    size: int
    described: Described | None = None


@dataclass(frozen=True)
class Column:
    """What is known of one column.

    Args:
        name: of the column.
        values: its categories, or none.
        edges: where its buckets begin but for the first, ascending.
        rows: of the column `id`, how many there were.
        kind: "text", "vector" or nothing.
        width: of the vectors of a column of these.
        model: fingerprint of the text model that read a text.
    """

    name: str
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    rows: int = 0
    kind: str = ""
    width: int = 0
    model: str = ""

    @property
    def size(self) -> int:
        """Values that codes stand for."""
        if self.kind:
            return 0
        return self.rows or len(self.values) or len(self.edges) + 1

    def codes(self, column: pa.ChunkedArray, own: Ids | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [C] and codes int64 [C], without those that are not known; `own` as in `Vocabulary.codes`."""
        if self.rows:
            found = np.arange(len(column)) if own is None else own.find(column.to_pylist())
            known = np.flatnonzero((found >= 0) & (found < self.rows))
            return known, found[known]
        if not self.values:
            numbers = _numbers(column)
            known = np.flatnonzero(~np.isnan(numbers))
            return known, np.searchsorted(np.array(self.edges), numbers[known], side="right")
        import pyarrow as pa
        import pyarrow.compute as pc

        row, texts = _texts(column)
        found = (
            pc.index_in(texts, value_set=pa.array(self.values)).fill_null(-1).to_numpy(zero_copy_only=False)
        )
        return row[found >= 0], found[found >= 0].astype(np.int64)


@dataclass(frozen=True)
class Vocabulary:
    """Columns that a model knows of one side; the codes of each follow those of the one before."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(
        cls, table: pa.Table, names: Sequence[str], trained: np.ndarray, *, side: str, text_model: str = ""
    ) -> Vocabulary:
        """Values and buckets of the rows that training sees.

        Args:
            table: [N] with a column `id` and the attributes.
            names: columns to know, each with one of KINDS if it is not to be guessed.
            trained: bool [N].
            side: "users" or "items", for messages.
            text_model: fingerprint of what reads texts.

        Raises:
            InputError: no such column, or nothing in it that two rows share.
        """
        import pyarrow as pa

        kept, columns = table.filter(pa.array(trained)), []
        for text in names:
            name, _, kind = text.partition(":")
            if name not in table.column_names:
                known = ", ".join(table.column_names)
                raise InputError(f"{side} have no attribute '{name}': there is {known}")
            if kind not in KINDS:
                raise InputError(
                    f"attribute '{text}' of {side}: '{kind}' is neither category, number, text nor vector"
                )
            if kind == VECTOR:
                width = vectors_of(table.column(name), name, side).shape[1]
                columns.append(Column(name, kind=VECTOR, width=width))
            elif kind == TEXT:
                columns.append(_text(name, kept, side, text_model))
            else:
                columns.append(_fitted(name, kind, (table if name == IDENTITY else kept).column(name), side))
        return cls(tuple(columns))

    @classmethod
    def from_json(cls, document: list[dict[str, Any]]) -> Vocabulary:
        """What `to_json` made."""
        return cls(
            tuple(Column(**{**c, "values": tuple(c["values"]), "edges": tuple(c["edges"])}) for c in document)
        )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a column."""
        return [asdict(column) for column in self.columns]

    @property
    def size(self) -> int:
        return sum(column.size for column in self.columns)

    def words(self) -> str:
        """What is known, for people: `year (16 buckets), genres (18 values)`."""
        parts = []
        for column in self.columns:
            kind = "values" if column.rows or column.values else "buckets"
            parts.append(f"{column.name} ({column.kind or f'{column.size:,} {kind}'})")
        return ", ".join(parts)

    @property
    def text_model(self) -> str:
        """Fingerprint of the text model that read texts, if there are any."""
        return next((column.model for column in self.columns if column.kind == TEXT), "")

    def codes(
        self,
        table: pa.Table,
        own: Ids | None = None,
        *,
        embed: Embed | None = None,
        known: Described | None = None,
    ) -> Coded:
        """Codes of every row; a column that the table lacks codes to nothing.

        Args:
            own: ids in the order of training; None where the table has that order.
            embed: what reads texts.
            known: what texts have been read before.
        """
        rows, codes, weights, first = [], [], [], 0
        for column in self.columns:
            if not column.kind and column.name in table.column_names:
                row, code = column.codes(table.column(column.name), own)
                rows.append(row)
                codes.append(code + first)
                weights.append((1 / np.bincount(row, minlength=len(table))[row]).astype(np.float32))
            first += column.size
        row = np.concatenate([np.zeros(0, np.int64), *rows])
        order = np.argsort(row, kind="stable")
        indptr = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=len(table)))))
        code = np.concatenate([np.zeros(0, np.int64), *codes])[order]
        weight = np.concatenate([np.zeros(0, np.float32), *weights])[order]
        return Coded(indptr, code, weight, self.size, self._described(table, embed, known))

    def _described(self, table: pa.Table, embed: Embed | None, known: Described | None) -> Described | None:
        texts = [column.name for column in self.columns if column.kind == TEXT]
        parts, keys = [], np.zeros(len(table), np.int64)
        if texts:
            assert embed is not None, "texts need a text model"
            vectors, keys = embedded(texts_of(table, texts), embed, known)
            parts.append(vectors)
        for column in self.columns:
            if column.kind == VECTOR and column.name in table.column_names:
                parts.append(vectors_of(table.column(column.name), column.name, "rows", column.width))
            elif column.kind == VECTOR:
                parts.append(np.zeros((len(table), column.width), np.float32))
        if not parts:
            return None
        return Described(np.concatenate(parts, 1), tuple(part.shape[1] for part in parts), keys)

    def matrix(self, table: pa.Table) -> np.ndarray:
        """One code a column, int32 [N, columns], -1 for none; of a list the first that is known."""
        found, first = np.full((len(table), len(self.columns)), -1, np.int32), 0
        for place, column in enumerate(self.columns):
            if column.name in table.column_names:
                row, code = column.codes(table.column(column.name), None)
                found[row[::-1], place] = code[::-1] + first
            first += column.size
        return found


def _text(name: str, kept: pa.Table, side: str, text_model: str) -> Column:
    if not text_model:
        raise InputError(
            f"attribute '{name}:{TEXT}' of {side} needs a text model: set model.text_model to its folder"
        )
    if not any(texts_of(kept, [name])):
        raise InputError(
            f"attribute '{name}' of {side}: none of the rows that train has a text: leave it out"
        )
    return Column(name, kind=TEXT, model=text_model)


def _fitted(name: str, kind: str, column: pa.ChunkedArray, side: str) -> Column:
    if name == IDENTITY:
        return Column(name, rows=len(column))
    number = kind == "number" if kind else _is_number(column)
    if number:
        try:
            numbers = _numbers(column)
        except ValueError:
            raise InputError(f"attribute '{name}' of {side} is not a number: {column.type}") from None
        numbers = numbers[~np.isnan(numbers)]
        if len(numbers):
            edges = np.unique(np.quantile(numbers, np.arange(1, BUCKETS) / BUCKETS))
            return Column(name, edges=tuple(edges.tolist()))
    elif values := _categories(column):
        return Column(name, values=values)
    raise InputError(
        f"attribute '{name}' of {side}: no value stands in {LEAST} of the rows that train: leave it out"
    )


def _is_number(column: pa.ChunkedArray) -> bool:
    import pyarrow.types as types

    if types.is_integer(column.type):
        return len(column.unique()) > FEW
    return bool(types.is_floating(column.type) or types.is_temporal(column.type))


def _categories(column: pa.ChunkedArray) -> tuple[str, ...]:
    """Values that stand in LEAST rows or more, in the order of the alphabet."""
    _, texts = _texts(column)
    counted = texts.value_counts().to_pylist()
    return tuple(sorted(pair["values"] for pair in counted if pair["counts"] >= LEAST))


def _texts(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Rows int64 [C] and values as text [C], without nulls; of a list each member once."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    whole = column.combine_chunks()
    row = np.arange(len(whole))
    if types.is_list(whole.type) or types.is_large_list(whole.type):
        row, whole = pc.list_parent_indices(whole).to_numpy(), pc.list_flatten(whole)
    texts = whole.cast(pa.string())
    held = texts.is_valid().to_numpy(zero_copy_only=False)
    return row[held].astype(np.int64), texts.drop_null()


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64 [N], NaN for null."""
    import pyarrow as pa
    import pyarrow.types as types

    whole = column.combine_chunks()
    if types.is_temporal(whole.type):
        whole = whole.cast(pa.timestamp("us")).cast(pa.int64())
    return whole.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
