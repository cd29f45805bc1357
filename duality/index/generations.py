"""Generations of an index: each a folder of its own, one of them current, switched in one step.

index.json                  format, current, previous
generations/000001/         generation.json and the files of both sides (pair.py)
snapshots/NAME/             copies of a generation
writer.lock                 held by the process that writes

A switch replaces index.json atomically; readers of the old generation keep its open files. The
generation before is kept for `rollback`, older ones are removed.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duality.artifacts import fsync_path
from duality.errors import DamageError, InputError
from duality.index.documents import read_document, write_document
from duality.index.head import ADVICE

FORMAT = 2
ROOT, MANIFEST = "index.json", "generation.json"
BUILD_AGAIN = "build the index again"
KEEP_PREVIOUS = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Root:
    """What index.json says: name of the current generation, names of those before, newest first."""

    current: str
    previous: list[str]


def read_root(path: Path) -> Root:
    """The root document of an index folder.

    Raises:
        InputError: no index there, or made by a newer version.
        DamageError: the document is damaged.
    """
    try:
        document = read_document(path / ROOT, BUILD_AGAIN)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no index at {path}: make one with `duality index build`") from None
    if document.get("format") != FORMAT:
        raise InputError(f"{path} has index format {document.get('format')}; this version reads {FORMAT}")
    names = [document.get("current"), *(document.get("previous") or [])]
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise DamageError(f"{path / ROOT} names no generation: {BUILD_AGAIN}")
    return Root(names[0], names[1:])


def folder_of(path: Path, name: str) -> Path:
    """Folder of a generation."""
    return path / "generations" / name


def snapshot_folder(path: Path, name: str) -> Path:
    """Folder of a named snapshot."""
    return path / "snapshots" / checked_name(name)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a generation (or snapshot) was built of and how.

    Raises:
        DamageError: there is none, or it is damaged.
    """
    try:
        manifest = read_document(folder / MANIFEST, ADVICE)
    except (FileNotFoundError, NotADirectoryError):
        raise DamageError(f"no index generation at {folder}: {ADVICE}") from None
    if not isinstance(manifest.get("options"), dict) or "kind" not in manifest["options"]:
        raise DamageError(f"{folder / MANIFEST} describes no index: {ADVICE}")
    return manifest


def switch(path: Path, finished: Path) -> str:
    """Make a finished folder the current generation, in one step; its name."""
    root = read_root(path) if (path / ROOT).exists() else None
    home = path / "generations"
    taken = [int(entry.name) for entry in home.iterdir() if entry.name.isdigit()]
    name = f"{max(taken, default=0) + 1:06d}"
    for place in [*finished.rglob("*"), finished]:
        fsync_path(place)
    os.replace(finished, home / name)
    fsync_path(home)
    point(path, Root(name, [root.current, *root.previous][:KEEP_PREVIOUS] if root else []))
    prune(path)
    return name


def roll_back(path: Path) -> str:
    """Make the previous generation the current one; a second time leads back again.

    Raises:
        InputError: there is no previous generation.
    """
    root = read_root(path)
    if not root.previous:
        raise InputError(f"{path} has one generation only: there is nothing to go back to")
    point(path, Root(root.previous[0], [root.current, *root.previous[1:]]))
    return root.previous[0]


def point(path: Path, root: Root) -> None:
    """Write the root document."""
    write_document(path / ROOT, {"format": FORMAT, "current": root.current, "previous": root.previous})


def prune(path: Path) -> None:
    """Remove generations that the root does not name; unfinished builds stay, to be resumed."""
    root = read_root(path)
    for entry in (path / "generations").iterdir():
        if entry.name.isdigit() and entry.name not in (root.current, *root.previous):
            shutil.rmtree(entry, ignore_errors=True)


def checked_name(name: str) -> str:
    """A name that is safe as a folder name.

    Raises:
        InputError: it is not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: use up to 64 letters, digits, '.', '_' or '-'")
    return name


def copies(path: Path) -> list[Path]:
    """Every folder that holds records: current generation, previous ones, unfinished builds, snapshots."""
    found = [*(path / "generations").glob("*"), *(path / "snapshots").glob("*")]
    return sorted(folder for folder in found if folder.is_dir() and not folder.is_symlink())
