"""Files that can become a table, recognised by suffix and header.

Reads: Parquet, CSV/TSV, JSON lines, RecBole atomic files; only their first line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duality.artifacts import fingerprint
from duality.data.checks import MAX_CELL_BYTES, MAX_LINE_BYTES
from duality.errors import DataError, suggestion

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
# RecBole's header types, with the list type of sequence columns.
_RECBOLE_TYPES = {"token": "", "float": "", "token_seq": "VARCHAR[]", "float_seq": "DOUBLE[]"}


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
        return find_recbole(path, label)
    if kind == "csv":
        delimiter, names = _sniff(path, label, packed)
        return Source(label, "csv", path, delimiter=delimiter, names=names)
    return Source(label, kind, path)


def find_recbole(path: Path, label: str) -> Source:
    """A RecBole atomic file: tab separated, header cells `name:type`; `.user`, `.item` beside `.inter`."""
    with open(path, "rb") as file:
        header = file.readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n")
    cells = [cell.strip().rpartition(":") for cell in header.split("\t")]
    if not header or not all(name and kind in _RECBOLE_TYPES for name, _, kind in cells):
        raise DataError("not a RecBole file: its header must be tab-separated `name:type`", file=label)
    lists = {name: _RECBOLE_TYPES[kind] for name, _, kind in cells if _RECBOLE_TYPES[kind]}
    users = items = None
    if path.suffix == ".inter":
        users, items = (optional_file(path.with_suffix(suffix)) for suffix in (".user", ".item"))
    names = tuple(name for name, _, _ in cells)
    return Source(label, "recbole", path, "\t", names, users, items, lists)


def optional_file(path: Path) -> Source | None:
    """The file as a source, None when it is not there."""
    return find_file(path, path.name) if path.is_file() else None


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
    return delimiter, distinct_names(names, label)


def _cells(header: str, delimiter: str) -> list[str]:
    csv.field_size_limit(MAX_LINE_BYTES)
    return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter))]


def distinct_names(names: list[str], label: str) -> tuple[str, ...]:
    """Column names, with those of unnamed columns (a frame's index) filled in."""
    filled = [name or f"column{place}" for place, name in enumerate(names)]
    seen: set[str] = set()
    for name in filled:
        if name.casefold() in seen:
            raise DataError("two columns have this name", file=label, column=name)
        seen.add(name.casefold())
    return tuple(filled)
