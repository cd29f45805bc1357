"""index.json of an index on a server: where it is, and its generations.

The file decides what is current: it is replaced in one step after a generation is complete, and
names both sides at once. The aliases on the server follow it, for programs that do not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from duality.artifacts import read_json
from duality.errors import DamageError, InputError

FORMAT = 2
MARKER, LOCK = "index.json", "writer.lock"
# What belongs to a generation and comes back with it.
OF_GENERATION = ("dim", "model", "dataset", "options", "created", "extra")
# Generations before the current one that stay on the server.
KEPT = 1


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index on a server.

    Raises:
        InputError: no index there, a local one, or made by a newer version.
        DamageError: not readable.
    """
    manifest = read_json(folder / MARKER, what="index", make="duality index build")
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise DamageError(f"{folder / MARKER} is not an index manifest: build the index again")
    if "store" not in manifest:
        raise InputError(f"{folder} holds a local index, not one on a store")
    if manifest["format"] != FORMAT:
        raise InputError(f"{folder} has index format {manifest['format']}; this version reads {FORMAT}")
    missing = [key for key in ("name", "current", "previous", *OF_GENERATION) if key not in manifest]
    if missing:
        raise DamageError(f"{folder / MARKER} lacks {', '.join(missing)}: build the index again")
    return manifest


def replaceable(folder: Path, store: str) -> dict[str, Any] | None:
    """The manifest that a build into `folder` would follow; None when there is no index yet.

    Raises:
        InputError: the folder holds something else, a local index, or one on another store.
    """
    if not (folder / MARKER).exists():
        if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}):
            raise InputError(f"{folder} exists and is no index: choose another folder or move it away")
        return None
    manifest = read_manifest(folder)
    if manifest["store"] != store:
        raise InputError(f"{folder} is an index on {manifest['store']}: choose another folder for {store}")
    return manifest


def new_manifest(
    old: Mapping[str, Any] | None,
    *,
    store: str,
    name: str,
    generation: str,
    dim: int,
    options: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest after a build."""
    rest = dict(extra)
    return {
        "format": FORMAT,
        "store": store,
        "name": name,
        "current": generation,
        "previous": ([_entry(old), *old["previous"]] if old else [])[:KEPT],
        "dim": dim,
        "model": rest.pop("model", None),
        "dataset": rest.pop("dataset", None),
        "options": dict(options),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "extra": rest,
    }


def rolled_back(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the generation before the current one as current; twice is a way back.

    Raises:
        InputError: there is none.
    """
    if not manifest["previous"]:
        raise InputError(f"{manifest['name']} has one generation only: there is nothing to go back to")
    first, *rest = manifest["previous"]
    values = {key: first[key] for key in OF_GENERATION}
    return {**manifest, "current": first["generation"], "previous": [_entry(manifest), *rest], **values}


def _entry(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"generation": manifest["current"], **{key: manifest[key] for key in OF_GENERATION}}


def generations(manifest: Mapping[str, Any]) -> list[str]:
    """Names of all generations that the manifest knows, the current one first."""
    return [manifest["current"], *(entry["generation"] for entry in manifest["previous"])]
