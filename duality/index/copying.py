"""A consistent copy of one side in another folder: for snapshots of an index, and to restore them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from duality.artifacts import fsync_path
from duality.errors import DamageError
from duality.index.head import reset_head
from duality.index.reads import RecordReads
from duality.index.seal import seal
from duality.index.snapshot import pointer


def copy_side(reads: RecordReads, folder: Path, name: str, target: Path) -> None:
    """Copy the newest commit of an open store, and the search structure beside it; durable on return.

    Cost: the records are written anew; arrays of the structure, which never change, are linked.
    """
    _link_structure(folder, name, target)
    database = target / f"{name}.sqlite"
    reads.copy_to(database)
    fsync_path(database)
    copied = RecordReads.open(database, writable=True)
    try:
        copied.keep_log()
        head = copied.head()
    finally:
        copied.close()
    reset_head(database.with_suffix(".head"), head)
    seal(database, head)
    fsync_path(target)


def _link_structure(folder: Path, name: str, target: Path) -> None:
    from duality.index.documents import read_document

    try:
        chosen = folder / Path(read_document(pointer(folder, name), "")["folder"]).name
        place = target / chosen.name
        place.mkdir()
        for path in chosen.iterdir():
            _link(path, place / path.name)
        fsync_path(place)
        shutil.copyfile(pointer(folder, name), pointer(target, name))
        fsync_path(pointer(target, name))
    except (OSError, DamageError, KeyError):
        # Derived data: the copy builds its own when it is opened.
        pointer(target, name).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        fsync_path(target)
