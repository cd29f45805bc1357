"""Folders that hold a log with its users and items: MovieLens, Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from duality.data.files import Source, find_file, find_recbole, optional_file
from duality.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Columns 5 to 23 of u.item, in order.
# fmt: off
_GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
]
# fmt: on
_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_KNOWN = "interactions.parquet, ratings.dat, u.data, ratings.csv, *.inter"


def find_folder(path: Path, label: str) -> Source:
    """Recognise a folder by the log inside it.

    Raises:
        DataError: no known log; the message lists what would be known.
    """
    if (path / "interactions.parquet").is_file():
        users, items = (optional_file(path / f"{side}.parquet") for side in ("users", "items"))
        log = find_file(path / "interactions.parquet", f"{label}/interactions.parquet")
        return Source(log.name, log.kind, log.content, users=users, items=items)
    if (path / "ratings.dat").is_file():
        return _movielens_1m(path, label)
    if (path / "u.data").is_file():
        return _movielens_100k(path, label)
    if (path / "ratings.csv").is_file():
        log = find_file(path / "ratings.csv", f"{label}/ratings.csv")
        return Source(
            log.name,
            log.kind,
            log.content,
            log.delimiter,
            log.names,
            items=_movielens_csv(path / "movies.csv"),
        )
    found = sorted(path.glob("*.inter"))
    if len(found) == 1:
        return find_recbole(found[0], f"{label}/{found[0].name}")
    raise DataError(f"the folder holds no log that is known ({_KNOWN})", file=label)


def _movielens_1m(path: Path, label: str) -> Source:
    users = _cells(path / "users.dat", "::", 5)
    items = _cells(path / "movies.dat", "::", 3)
    places = {"user_id": 0, "gender": 1, "age": 2, "occupation": 3, "zip": 4}
    return Source(
        f"{label.removesuffix('/ratings.dat')}/ratings.dat",
        "csv",
        _not_empty(path / "ratings.dat"),
        "::",
        _RATING_COLUMNS,
        _table("users.dat", places, users, {"age", "occupation"}) if users else None,
        _movies("movies.dat", items) if items else None,
    )


def _movielens_100k(path: Path, label: str) -> Source:
    users = _cells(path / "u.user", "|", 5)
    items = _cells(path / "u.item", "|", 24)
    places = {"user_id": 0, "age": 1, "gender": 2, "occupation": 3, "zip": 4}
    return Source(
        f"{label.removesuffix('/u.data')}/u.data",
        "csv",
        _not_empty(path / "u.data"),
        "\t",
        _RATING_COLUMNS,
        _table("u.user", places, users, {"age"}) if users else None,
        _movies_100k(items) if items else None,
    )


def _not_empty(path: Path) -> Path:
    if path.stat().st_size == 0:
        raise DataError("the file is empty (0 bytes)", file=path.name)
    return path


def _movielens_csv(path: Path) -> Source | None:
    """movies.csv of the newer MovieLens releases; quotes protect commas."""
    if not path.is_file():
        return None
    import csv

    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return _movies(path.name, [row for row in rows if len(row) == 3])


def _cells(path: Path, separator: str, count: int) -> list[list[str]] | None:
    """Cells of a small file, which may be Latin-1; None when it is missing or of another layout.

    Raises:
        DataError: a row has fewer or more cells than the first.
    """
    if not path.is_file():
        return None
    raw = path.read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    rows = [line.split(separator) for line in text.split("\n") if line.strip()]
    if not rows or len(rows[0]) != count:
        return None
    for row, cells in enumerate(rows, 1):
        if len(cells) != count:
            raise DataError(
                f"{len(cells)} cells, not {count}, between '{separator}'", file=path.name, row=row
            )
    return [[cell.rstrip("\r") for cell in cells] for cells in rows]


def _table(name: str, places: dict[str, int], rows: list[list[str]], numbers: set[str]) -> Source:
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    for column, place in places.items():
        cells = [row[place].strip() or None for row in rows]
        numeric = column in numbers and all(cell is None or cell.isdigit() for cell in cells)
        columns[column] = pa.array([int(cell) if cell else None for cell in cells] if numeric else cells)
    return Source(name, "arrow", pa.table(columns))


def _movies(name: str, rows: list[list[str]]) -> Source:
    genres = [
        [genre for genre in row[2].split("|") if genre and genre != "(no genres listed)"] for row in rows
    ]
    return _titled(name, [row[0] for row in rows], [row[1] for row in rows], genres)


def _movies_100k(rows: list[list[str]]) -> Source:
    genres = [[genre for genre, flag in zip(_GENRES_100K, row[5:]) if flag.strip() == "1"] for row in rows]
    return _titled("u.item", [row[0] for row in rows], [row[1] for row in rows], genres)


def _titled(name: str, identifiers: list[str], titles: list[str], genres: list[list[str]]) -> Source:
    import pyarrow as pa

    columns = {
        "item_id": pa.array(identifiers, pa.string()),
        "title": pa.array(titles, pa.string()),
        "genres": pa.array(genres, pa.list_(pa.string())),
    }
    return Source(name, "arrow", pa.table(columns))
