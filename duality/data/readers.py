"""Sources into DuckDB tables: files, folders and frames, each recognised by what it is.

Reads:  Parquet, CSV/TSV, JSON lines, RecBole atomic files, MovieLens folders, folders with
        interactions.parquet, pandas and Polars frames, Arrow tables.
Writes: one DuckDB table per source, rows in source order, so that a row's `rowid` is its place
        in the file. Text formats stay text; types come later (kinds.py).
Not here: what the columns mean (columns.py), whether the cells are good (checks.py).
"""

from __future__ import annotations

import codecs
import csv
import gzip
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duality.artifacts import fingerprint
from duality.data.checks import MAX_CELL_BYTES, MAX_LINE_BYTES, reading
from duality.errors import DataError, suggestion

if TYPE_CHECKING:
    import duckdb

_DELIMITERS = (",", "\t", ";", "|")
_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".inter": "recbole",
    ".user": "recbole",
    ".item": "recbole",
}


@dataclass(frozen=True)
class Source:
    """Something that can become a table.

    `kind` is parquet, csv, json, recbole or arrow; `content` is a path, or an Arrow table for the
    last. `names` are the columns of delimited text, `lists` the list types of those that hold
    sequences; `users` and `items` lie beside a log; `title` is the folder's name.
    """

    name: str
    kind: str
    content: Any
    delimiter: str | None = None
    names: tuple[str, ...] | None = None
    users: Source | None = None
    items: Source | None = None
    lists: dict[str, str] = field(default_factory=dict)
    title: str | None = None

    @property
    def text(self) -> bool:
        """Cells are text whose types are still to be found."""
        return self.kind in ("csv", "recbole")

    def describe(self) -> dict[str, Any]:
        """Name, kind, size and fingerprint of size, first and last MiB; no path."""
        if not isinstance(self.content, Path):
            return {"name": Path(self.name).name, "kind": "frame"}
        size = self.content.stat().st_size
        with open(self.content, "rb") as file:
            head = file.read(1 << 20)
            file.seek(max(size - (1 << 20), 0))
            tail = file.read(1 << 20)
        return {
            "name": self.title or Path(self.name).name,
            "kind": self.kind,
            "bytes": size,
            "fingerprint": fingerprint(str(size), head, tail),
        }


def find_source(source: Any, *, name: str | None = None) -> Source:
    """Recognise a source.

    Args:
        source: path of a file or folder, pandas or Polars frame, or Arrow table.
        name: what to call it in messages; the path itself by default.

    Raises:
        DataError: missing, empty, or of no known kind.
    """
    if not isinstance(source, (str, Path)):
        return _frame(source)
    path, label = Path(source), name or str(source)
    if path.is_dir():
        from duality.data.folders import find_folder

        return replace(find_folder(path, label), title=path.resolve().name)
    if not path.is_file():
        raise DataError("no such file or folder", file=label)
    if path.name in ("ratings.dat", "u.data"):
        from duality.data.folders import find_folder

        return find_folder(path.parent, label)
    return find_file(path, label)


def find_file(path: Path, label: str) -> Source:
    """Recognise one file by its suffix.

    Raises:
        DataError: empty, or an unknown suffix.
    """
    if path.stat().st_size == 0:
        raise DataError("the file is empty (0 bytes)", file=label)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if packed else suffixes)[-1:] or [""]
    kind = _SUFFIXES.get(suffix[0])
    if kind is None:
        known = ", ".join(_SUFFIXES)
        raise DataError(
            f"unknown kind of file '{suffix[0]}'{suggestion(suffix[0], _SUFFIXES)}; known: {known}",
            file=label,
        )
    if kind == "recbole":
        from duality.data.folders import find_recbole

        return find_recbole(path, label)
    if kind == "csv":
        delimiter, names = _sniff(path, label, packed)
        return Source(label, "csv", path, delimiter=delimiter, names=names)
    return Source(label, kind, path)


def stage(connection: duckdb.DuckDBPyConnection, source: Source, table: str) -> None:
    """Copy a source into a new DuckDB table; row r of the source has rowid r (0-based).

    Raises:
        DataError: it cannot be read; file, row and column where known.
    """
    with reading(source.name, source.content, source.delimiter):
        if source.kind == "parquet":
            relation = connection.read_parquet(str(source.content))
        elif source.kind == "json":
            relation = _json_lines(connection, source)
        elif source.text:
            relation = _delimited(connection, source)
        else:
            relation = connection.from_arrow(source.content)
        if not relation.columns:
            raise DataError("it has no columns", file=source.name)
        relation.create(table)


def _delimited(connection: duckdb.DuckDBPyConnection, source: Source) -> duckdb.DuckDBPyRelation:
    assert source.names is not None
    quote = "" if source.kind == "recbole" or source.delimiter == "::" else '"'
    return connection.read_csv(
        str(source.content),
        delimiter=source.delimiter,
        header=not str(source.content).endswith((".dat", "u.data")),
        auto_detect=False,
        columns=dict.fromkeys(source.names, "VARCHAR"),
        quotechar=quote,
        escapechar=quote,
        null_padding=False,
        max_line_size=MAX_LINE_BYTES,
    )


def _json_lines(connection: duckdb.DuckDBPyConnection, source: Source) -> duckdb.DuckDBPyRelation:
    """Read objects, one per line; text that looks like a date or a UUID stays the text it is."""
    options: dict[str, Any] = {"format": "newline_delimited", "maximum_object_size": MAX_LINE_BYTES}
    found = connection.read_json(str(source.content), **options)
    types = {name: str(kind) for name, kind in zip(found.columns, found.types)}
    if list(types) == ["json"]:
        raise DataError("its lines are not JSON objects", file=source.name)
    for name, kind in types.items():
        if kind in ("DATE", "TIME", "TIMESTAMP", "UUID", "TIMESTAMP WITH TIME ZONE", "JSON"):
            types[name] = "VARCHAR"
    return connection.read_json(str(source.content), columns=types, **options)


def _sniff(path: Path, label: str, packed: bool) -> tuple[str, tuple[str, ...]]:
    opener = gzip.open if packed else open
    with opener(path, "rb") as file:
        head = file.readline(MAX_LINE_BYTES)
    try:
        header = head.decode("utf-8-sig").splitlines()[0] if head.strip() else ""
    except UnicodeDecodeError:
        hint = " (it is UTF-16)" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        raise DataError(f"the header is not UTF-8{hint}: save the file as UTF-8", file=label) from None
    if not header:
        raise DataError("the file has no header row", file=label)
    delimiter = max(_DELIMITERS, key=lambda candidate: len(_cells(header, candidate)))
    names = _cells(header, delimiter)
    if len(names) < 2:
        shown = names[0] if len(names[0]) <= 80 else names[0][:77] + "..."
        what = f"only one column found, '{shown}': separate columns with a comma, tab, semicolon or bar"
        raise DataError(what, file=label)
    if any(len(name.encode()) > MAX_CELL_BYTES for name in names):
        raise DataError("a column name is longer than 1 MB", file=label)
    return delimiter, _distinct(names, label)


def _cells(header: str, delimiter: str) -> list[str]:
    csv.field_size_limit(MAX_LINE_BYTES)
    return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter))]


def _distinct(names: list[str], label: str) -> tuple[str, ...]:
    """Column names, with those of unnamed columns (a frame's index) filled in."""
    filled = [name or f"column{place}" for place, name in enumerate(names)]
    seen: set[str] = set()
    for name in filled:
        if name.casefold() in seen:
            raise DataError("two columns have this name", file=label, column=name)
        seen.add(name.casefold())
    return tuple(filled)


def _frame(source: Any) -> Source:
    package = type(source).__module__.split(".")[0]
    import pyarrow as pa

    try:
        if package == "pandas":
            table = pa.Table.from_pandas(source, preserve_index=False)
        elif package == "polars":
            table = (source.collect() if hasattr(source, "collect") else source).to_arrow()
        elif isinstance(source, pa.Table):
            table = source
        else:
            kind = type(source).__name__
            raise DataError(
                f"cannot import a {kind}: give a path, a pandas or Polars frame or an Arrow table"
            )
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"the frame cannot become an Arrow table: {error}", file=type(source).__name__
        ) from None
    name = f"{package} {type(source).__name__}"
    _distinct(list(table.column_names), name)
    return Source(name, "arrow", table)
