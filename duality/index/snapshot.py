"""A search structure on disk: derived data, named by the commit it stands for.

Writes: `<side>.<seq>.faiss` and `<side>.<seq>.labels.npy`, then `<side>.snapshot.json` with their
        checksums; the JSON file is what makes them the current snapshot.
Reads:  the same; FAISS loads most damaged files silently, so checksums are compared first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import atomic_file, checksum, read_json, write_json
from duality.errors import DamageError
from duality.index.ann import STRUCTURES
from duality.index.faiss_module import faiss
from duality.index.structure import Structure


def description_path(folder: Path, side: str) -> Path:
    """Where the snapshot of a side describes itself."""
    return folder / f"{side}.snapshot.json"


def snapshot_seq(folder: Path, side: str) -> int:
    """Commit of the current snapshot; 0 when there is none."""
    return int(_describe(folder, side)["seq"]) if description_path(folder, side).exists() else 0


def write_snapshot(folder: Path, side: str, seq: int, structure: Structure) -> None:
    """Make `structure` the current snapshot of a side, durably, and drop older ones."""
    index_path, labels_path = folder / f"{side}.{seq}.faiss", folder / f"{side}.{seq}.labels.npy"
    with atomic_file(index_path) as temporary:
        faiss().write_index(structure.index, str(temporary))
    with atomic_file(labels_path) as temporary, open(temporary, "wb") as file:
        np.save(file, structure.labels)
    files = {path.name: checksum(path) for path in (index_path, labels_path)}
    write_json(description_path(folder, side), {"seq": seq, "settings": structure.settings, "files": files})
    for path in [*folder.glob(f"{side}.*.faiss"), *folder.glob(f"{side}.*.labels.npy")]:
        if path.name not in files:
            path.unlink(missing_ok=True)


def read_snapshot(folder: Path, side: str) -> tuple[int, Structure] | None:
    """The current snapshot and its commit, or None when there is none.

    Raises:
        DamageError: a file does not match its checksum or cannot be read.
    """
    for _ in range(2):
        if not description_path(folder, side).exists():
            return None
        description = _describe(folder, side)
        try:
            return int(description["seq"]), _load(folder, side, description)
        except FileNotFoundError:
            # A writer has replaced the snapshot since its description was read: look again.
            continue
    return None


def _describe(folder: Path, side: str) -> dict[str, Any]:
    return read_json(description_path(folder, side), what="snapshot", make="duality index compact")


def _load(folder: Path, side: str, description: dict[str, Any]) -> Structure:
    for name, digest in description["files"].items():
        if checksum(folder / name) != digest:
            raise DamageError(f"{folder / name} is damaged: make it again with `duality index compact`")
    index_name, labels_name = description["files"]
    try:
        index = faiss().read_index(str(folder / index_name))
        labels = np.load(folder / labels_name)
    except (RuntimeError, ValueError) as error:
        raise DamageError(f"{folder / index_name} cannot be read ({error})") from None
    settings = description["settings"]
    return STRUCTURES[settings["kind"]](index, labels, settings)
