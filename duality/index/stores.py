"""Where an index lives: files of this machine (pair.py), or a Milvus server (remote/); one way to open both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DataError, InputError
from duality.index.building import SIDES
from duality.index.documents import read_untrusted
from duality.index.generations import ROOT
from duality.index.pair import Pair, verify_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.index.spec import IndexSpec

__all__ = ["SIDES", "build", "open_index", "tuning_queries", "verify_index"]
# More queries make the measured recall surer than +-0.01; more take longer.
_TUNING_QUERIES = 500


def build(
    path: str | Path,
    users: pa.Table | str | Path,
    items: pa.Table | str | Path,
    *,
    spec: IndexSpec | str | Path | None = None,
    manifest_extra: Mapping[str, Any] | None = None,
    device: str | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Build an index in files, or in a Milvus server when `store` is its address; see `building.build`."""
    if store is None:
        from duality.index.building import build as build_files

        if is_remote(Path(path)):
            raise InputError(f"{path} is an index on a store: name it with --store, or choose another folder")

        return build_files(path, users, items, spec=spec, manifest_extra=manifest_extra, device=device)
    from duality.index.remote.pair import RemotePair

    if device is not None:
        raise InputError("--device is for indexes in files: a store builds its own structures")
    return RemotePair.build(Path(path), store, users, items, spec=spec, manifest_extra=manifest_extra)


def is_remote(path: Path) -> bool:
    """Whether an index folder names a store instead of holding the vectors."""
    try:
        return "store" in read_untrusted(path / ROOT)
    except OSError:
        return False


def open_index(path: str | Path, mode: str = "r") -> Any:
    """An open index: a `Pair`, or a `RemotePair` where index.json names a store; same methods."""
    if is_remote(Path(path)):
        from duality.index.remote.pair import RemotePair

        return RemotePair.open(Path(path), mode)
    return Pair.open(path, mode)


def verify_index(path: Path) -> list[str]:
    """What is damaged, one line each; empty when all is well."""
    if not is_remote(path):
        return verify_folder(path)
    with open_index(path) as pair:
        return [problem for name in SIDES for problem in pair.side(name).verify()]


def tuning_queries(pair: Any, side: str, source: Path | None) -> NDArray[np.float32]:
    """Query vectors float32 [Q, dim]: those of a file, or a sample of the side that asks this one."""
    from duality.index.transfer import read_embeddings, vectors_of

    if source is not None:
        vectors = vectors_of(read_embeddings(source), str(source))
        if vectors is None:
            raise DataError("no column vector", file=str(source))
        return vectors[:_TUNING_QUERIES]
    asking = pair.side("users" if side == "items" else "items")
    return asking.sample(_TUNING_QUERIES)
