"""Indexes of format 1 (one SQLite file per side in the root, FAISS snapshots): read once, made format 2.

Writes: a generation of format 2 beside the old files, which are removed after the switch.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.errors import DamageError, InputError
from duality.index.attributes import Column
from duality.index.building import SIDES, finish_side
from duality.index.documents import read_untrusted, write_document
from duality.index.generations import BUILD_AGAIN, MANIFEST, ROOT, switch
from duality.index.lock import WriterLock
from duality.index.store import RecordStore
from duality.runtime import say

_KEPT = ("spec", "options", "dim", "model", "dataset", "created", "extra")
_BLOCK = 20_000


def upgrade_if_old(path: Path) -> None:
    """Turn an index of format 1 into one of format 2; anything else is left alone.

    Raises:
        DamageError: a record does not match its checksum; the old files stay as they are.
        InputError: the folder cannot be written.
    """
    manifest = _old_manifest(path)
    if manifest is None:
        return
    if not os.access(path, os.W_OK):
        raise InputError(
            f"{path} has index format 1, and opening it writes format 2: make the folder writable"
        )
    say(f"{path}: index format 1, rewritten once as format 2")
    lock = WriterLock(path)
    try:
        folder = path / "generations" / "building-upgrade"
        folder.mkdir(parents=True, exist_ok=True)
        for name in SIDES:
            _convert(path / f"{name}.sqlite", folder, name, manifest)
        write_document(folder / MANIFEST, {name: manifest[name] for name in _KEPT if name in manifest})
        (path / ROOT).rename(path / "index.format-1.json")
        switch(path, folder)
        _remove_old(path)
    finally:
        lock.release()


def _old_manifest(path: Path) -> dict[str, Any] | None:
    for name in (ROOT, "index.format-1.json"):
        try:
            found = read_untrusted(path / name)
        except OSError:
            continue
        if found.get("format") == 1 and "options" in found:
            return None if name != ROOT and (path / ROOT).exists() else found
    return None


def _convert(old: Path, folder: Path, name: str, manifest: dict[str, Any]) -> None:
    database = folder / f"{name}.sqlite"
    database.unlink(missing_ok=True)
    connection = sqlite3.connect(old.absolute().as_uri() + "?mode=rw", uri=True)
    store = RecordStore.create(database, int(manifest["dim"]))
    try:
        columns = connection.execute("SELECT name, kind FROM attributes ORDER BY slot").fetchall()
        with store.loading() as commit:
            for rows in _rows(connection, old, len(columns)):
                vectors = store.matrix([vector for _, vector, _ in rows])
                held = zip(*(values for _, _, values in rows)) if columns else ()
                attributes = {n: Column(kind, list(v)) for (n, kind), v in zip(columns, held)}
                store.insert([id for id, _, _ in rows], np.array(vectors), attributes, commit)
        finish_side(store, folder, name, manifest["options"])
    except sqlite3.DatabaseError as error:
        raise DamageError(f"{old} is damaged ({error}): {BUILD_AGAIN}") from None
    finally:
        store.close()
        connection.close()


def _rows(
    connection: sqlite3.Connection, old: Path, width: int
) -> Iterator[list[tuple[str, bytes, tuple[Any, ...]]]]:
    slots = "".join(f", a{slot}" for slot in range(width))
    cursor = connection.execute(f"SELECT id, vector, crc{slots} FROM records ORDER BY key")
    while block := cursor.fetchmany(_BLOCK):
        for id, vector, crc, *values in block:
            if _crc(id, vector, values) != crc:
                raise DamageError(f"{old}: the record of id {id} is damaged: {BUILD_AGAIN}")
        yield [(id, vector, tuple(values)) for id, vector, _, *values in block]


def _crc(id: str, vector: bytes, values: Sequence[Any]) -> int:
    crc = zlib.crc32(vector, zlib.crc32(id.encode()))
    held = [(slot, value) for slot, value in enumerate(values) if value is not None]
    return zlib.crc32(repr(held).encode(), crc) if held else crc


def _remove_old(path: Path) -> None:
    patterns = [
        f"{name}.{rest}" for name in SIDES for rest in ("sqlite*", "snapshot.json", "*.faiss", "*.npy")
    ]
    for pattern in [*patterns, "index.format-1.json"]:
        for file in path.glob(pattern):
            file.unlink()
