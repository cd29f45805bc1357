"""The files of a version that is made of another: arrays, tables, manifest; what stays the same is linked.

Shapes: U users, I items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import checksum, fingerprint, write_json
from duality.data.dataset import FORMAT, MANIFEST, Dataset
from duality.data.merging import Merged
from duality.data.versions import link_or_copy
from duality.data.writing import iso

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_ATTRIBUTES = "event_attributes.parquet"
_ID_FILES = ("bin", "offsets.npy", "order.npy")


def link_side(dataset: Dataset, folder: Path, side: str) -> None:
    """Ids and attributes of a side that stays as it is."""
    for file in (f"{side}.parquet", *(f"{side}.ids.{end}" for end in _ID_FILES)):
        link_or_copy(dataset.path / file, folder / file)


def write_arrays(folder: Path, merged: Merged, users: int, items: int) -> None:
    """The events, from both sides, of U users and I items."""
    arrays = {
        "user_indptr": _indptr(merged.event_user, users),
        "item_indptr": _indptr(merged.event_item, items),
        "event_user": merged.event_user,
        "event_item": merged.event_item,
        "item_event": merged.item_event,
        "event_time": merged.event_time,
    }
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file, compressed as those of an import."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd")


def write_manifest(folder: Path, dataset: Dataset, merged: Merged, users: int, items: int) -> str:
    """The manifest of a folder whose other files are written; the new fingerprint.

    Args:
        dataset: what it was made of.
    """
    checksums = {path.name: checksum(path) for path in sorted(folder.iterdir()) if path.is_file()}
    found = fingerprint(*(f"{name} {digest}" for name, digest in checksums.items()))
    counts = {"users": users, "items": items, "events": len(merged.event_user)}
    document = {
        **dataset.manifest,
        "format": FORMAT,
        **counts,
        **_time_facts(merged),
        "fingerprint": found,
        "checksums": checksums,
    }
    write_json(folder / MANIFEST, document)
    return found


def _time_facts(merged: Merged) -> dict[str, Any]:
    time = merged.event_time
    if time is None:
        return {}
    earlier = (np.diff(time) < 0) & (np.diff(merged.event_user) == 0)
    return {
        "first_event": iso(int(time.min())),
        "last_event": iso(int(time.max())),
        "order_disagrees_with_time": int(earlier.sum()),
    }


def _indptr(owner: np.ndarray, owners: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=owners))]).astype(np.int64)
