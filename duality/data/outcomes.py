"""Logs of what was shown and what came of it, as arrays: impressions with labels, bandit logs.

Reads:  any single file that `duality data import` reads (Parquet, CSV/TSV, JSON lines).
Cost:   the file is staged once in a temporary DuckDB database; only the wanted columns leave it.

Shapes: N rows of the file that the filter keeps, in file order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.data.checks import check_cells, check_ids, reading
from duality.data.connection import connect, quoted, read_table
from duality.data.files import find_file
from duality.data.kinds import column_types, id_expression, predicate_kind, time_expression, typed_columns
from duality.errors import DataError, suggestion

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Column:
    """A column that is wanted.

    Args:
        kind: "id" (text), "time" (microseconds UTC) or "number".
        usual: names it usually has, best first, compared in lower case without separators.
        asked: the caller's choice, which wins.
        option: the command-line option that names it, for messages.
        required: refuse a file without it.
    """

    kind: str
    usual: Sequence[str]
    asked: str | None = None
    option: str = ""
    required: bool = True


@dataclass(frozen=True, eq=False)
class Columns:
    """What was read.

    Attributes:
        file: the source, for messages.
        row: int64 [N], 1-based rows of the source.
        names: role to the column that plays it.
        values: role to a list of N strings (ids), int64 [N] (times) or float64 [N] (numbers;
            NaN where the cell is empty).
    """

    file: str
    row: np.ndarray
    names: Mapping[str, str]
    values: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.row)

    def refuse(self, bad: np.ndarray, role: str, what: str) -> None:
        """Raise DataError for the first row of `bad` (bool [N]), if there is one."""
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            held = self.values[role][first]
            many = f" ({int(bad.sum()):,} such rows)" if bad.sum() > 1 else ""
            raise DataError(
                f"{what}, here {held}{many}",
                file=self.file,
                row=int(self.row[first]),
                column=self.names[role],
            )


def read_outcomes(path: Path, wanted: Mapping[str, Column], where: str | None = None) -> Columns:
    """Read some columns of a file.

    Args:
        path: the file.
        wanted: role to column.
        where: keep only rows that meet this filter expression.

    Raises:
        DataError: no such file, a column is missing, an id is empty, a time or number cannot be
            read, or no row is left; names file, row and column.
        FilterError: `where` does not fit the file.
    """
    if not Path(path).is_file():
        raise DataError("no such file", file=str(path))
    source = find_file(Path(path), str(path))
    from duality.data.readers import stage

    with tempfile.TemporaryDirectory() as folder, reading(source.name, source.content, source.delimiter):
        connection = connect(Path(folder), "1GB")
        try:
            stage(connection, source, "rows")
            connection.execute("SET enable_external_access = false")
            raw = column_types(connection, "rows")
            check_cells(connection, "rows", raw, source.name)
            names = _named(list(raw), wanted, source.name)
            typed = typed_columns(connection, "rows", source, as_text=[])
            _make_view(connection, raw, typed, names, wanted, source.name)
            condition, parameters = _condition(where, typed)
            connection.execute(
                f"CREATE TABLE kept AS SELECT * FROM typed WHERE ({condition}) IS TRUE", parameters
            )
            _check(connection, names, wanted, source.name, text=source.text)
            chosen = ", ".join(["__src", *(f"__{role}" for role in names)])
            table = read_table(connection, f"SELECT {chosen} FROM kept ORDER BY __src")
        finally:
            connection.close()
    if not len(table):
        raise DataError("no row is left" + (f" after --where {where}" if where else ""), file=source.name)
    values: dict[str, Any] = {}
    for role in names:
        column = table.column(f"__{role}")
        values[role] = column.to_pylist() if wanted[role].kind == "id" else column.to_numpy()
    return Columns(source.name, table.column("__src").to_numpy() + 1, names, values)


def _named(found: list[str], wanted: Mapping[str, Column], file: str) -> dict[str, str]:
    plain = {_plain(name): name for name in reversed(found)}
    names = {}
    for role, column in wanted.items():
        if column.asked is not None and column.asked not in found:
            raise DataError(
                f"no such column{suggestion(column.asked, found)}; found: {', '.join(found[:20])}",
                file=file,
                column=column.asked,
            )
        usual = next((plain[_plain(name)] for name in column.usual if _plain(name) in plain), None)
        name = column.asked or usual
        if name is not None:
            names[role] = name
        elif column.required:
            raise DataError(
                f"no {role} column among {', '.join(found[:20])}: name it with {column.option}", file=file
            )
    return names


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _make_view(
    connection: duckdb.DuckDBPyConnection,
    raw: Mapping[str, str],
    typed: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
    wanted: Mapping[str, Column],
    file: str,
) -> None:
    selected = [
        "rowid AS __src",
        *(f"{expression} AS {quoted(name)}" for name, (expression, _) in typed.items()),
    ]
    for role, name in names.items():
        kind = wanted[role].kind
        if kind == "id":
            expression = id_expression(name, raw[name], file=file)
        elif kind == "time":
            expression, _ = time_expression(connection, "rows", name, raw[name], file=file)
        else:
            expression = _number(name, typed[name], file)
        selected.append(f"{expression} AS __{role}")
    connection.execute(f"CREATE VIEW typed AS SELECT {', '.join(selected)} FROM rows")


def _number(name: str, typed: tuple[str, str], file: str) -> str:
    if predicate_kind(typed[1]) in ("number", "boolean"):
        return f"CAST({typed[0]} AS DOUBLE)"
    if typed[1] == "VARCHAR":
        return f"CASE WHEN {typed[0]} IS NULL OR {typed[0]} = '' THEN NULL ELSE try_cast({typed[0]} AS DOUBLE) END"
    raise DataError(f"{typed[1]} is no number", file=file, column=name)


def _condition(where: str | None, typed: Mapping[str, tuple[str, str]]) -> tuple[str, list[Any]]:
    if where is None:
        return "true", []
    from duality.predicates import parse, to_sql

    kinds = {name: kind for name, (_, t) in typed.items() if (kind := predicate_kind(t)) is not None}
    return to_sql(parse(where), kinds, dialect="duckdb")


def _check(
    connection: duckdb.DuckDBPyConnection,
    names: Mapping[str, str],
    wanted: Mapping[str, Column],
    file: str,
    *,
    text: bool,
) -> None:
    from duality.data.checks import first_source_row

    for role, name in names.items():
        if wanted[role].kind == "id":
            check_ids(connection, "kept", f"__{role}", file, name, text=text)
            continue
        row = first_source_row(connection, "kept", f"__{role} IS NULL")
        if row is not None:
            what = "no time can be read here" if wanted[role].kind == "time" else "this is no number"
            raise DataError(what, file=file, row=row, column=name)
