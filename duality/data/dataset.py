"""A dataset folder, opened: memory-mapped events from both sides, ids, attributes.

Reads:  the folder that `duality data import` writes (format 1), or the current one of the versions
        that updates have made of it (versions.py).
Cost:   opening reads the manifest and maps files; pyarrow is imported only for tables.

Files and shapes (U users, I items, E events; an event's number is its place in `event_*`):
    dataset.json                 manifest, with the checksum of every other file
    users.parquet items.parquet  row order = dense row; `id` first, then attributes
    user_indptr.npy  int64 [U+1] events of user u are user_indptr[u] .. user_indptr[u+1]-1, oldest first
    event_item.npy   int32 [E]
    event_user.npy   int32 [E]
    event_time.npy   int64 [E]   microseconds since 1970 UTC; absent when the log has no time
    item_indptr.npy  int64 [I+1]
    item_event.npy   int64 [E]   event numbers grouped by item, oldest first; without time in hashed order
    event_attributes.parquet     the log's other columns in event order; absent when there are none
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import checksum, read_json
from duality.data import versions
from duality.data.ids import Ids
from duality.errors import DamageError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST = versions.MANIFEST
_MAKE = versions.MAKE


@dataclass(frozen=True, repr=False)
class Dataset:
    """Events as two sets of histories. Arrays are read-only memory maps; see the module header."""

    path: Path
    manifest: dict[str, Any]
    num_users: int
    num_items: int
    num_events: int
    timed: bool
    user_indptr: np.ndarray
    event_item: np.ndarray
    event_user: np.ndarray
    event_time: np.ndarray | None
    item_indptr: np.ndarray
    item_event: np.ndarray
    user_ids: Ids
    item_ids: Ids

    @classmethod
    def open(cls, path: Path | str, *, at: str | None = None) -> Dataset:
        """Open a dataset folder, and of one that was updated the current version.

        Args:
            path: the folder; the dataset's own `path` is that of the version.
            at: fingerprint of the version to open instead, if it is kept.

        Raises:
            InputError: there is no dataset; the message says how to make one.
            DamageError: a file is missing or its shape does not fit the manifest.
        """
        folder = versions.folder_at(Path(path), at)
        make = _MAKE.format(folder)
        manifest = read_json(folder / MANIFEST, what="dataset", make=make)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise DamageError(
                f"{folder / MANIFEST} is not dataset format {FORMAT}: make it again with `{make}`"
            )
        users, items, events = (int(manifest[key]) for key in ("users", "items", "events"))
        timed = bool(manifest["timed"])
        dataset = cls(
            path=folder,
            manifest=manifest,
            num_users=users,
            num_items=items,
            num_events=events,
            timed=timed,
            user_indptr=_array(folder, "user_indptr", users + 1, np.int64),
            event_item=_array(folder, "event_item", events, np.int32),
            event_user=_array(folder, "event_user", events, np.int32),
            event_time=_array(folder, "event_time", events, np.int64) if timed else None,
            item_indptr=_array(folder, "item_indptr", items + 1, np.int64),
            item_event=_array(folder, "item_event", events, np.int64),
            user_ids=Ids.open(folder, "users"),
            item_ids=Ids.open(folder, "items"),
        )
        if (len(dataset.user_ids), len(dataset.item_ids)) != (users, items):
            raise DamageError(f"{folder}: ids and manifest disagree: make it again with `{make}`")
        return dataset

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal for equal contents."""
        return str(self.manifest["fingerprint"])

    def users(self) -> pa.Table:
        """Table [U]: `id`, then the users' attributes."""
        return self._table("users.parquet")

    def items(self) -> pa.Table:
        """Table [I]: `id`, then the items' attributes."""
        return self._table("items.parquet")

    def event_attributes(self) -> pa.Table | None:
        """Table [E] in event order, or None when the log has no other columns."""
        return (
            self._table("event_attributes.parquet") if "event_attributes.parquet" in self._checksums else None
        )

    def verify(self) -> list[str]:
        """Read every file and return what does not match the manifest's checksums."""
        problems = []
        for name, expected in self._checksums.items():
            file = self.path / name
            if not file.is_file():
                problems.append(f"{file} is missing")
            elif checksum(file) != expected:
                problems.append(f"{file} does not match its checksum")
        return problems

    @property
    def _checksums(self) -> dict[str, str]:
        return self.manifest["checksums"]

    def _table(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.path / name)
        except (OSError, pa.ArrowException) as error:
            raise _damage(self.path, name, error) from None

    def __repr__(self) -> str:
        sizes = f"{self.num_users} users, {self.num_items} items, {self.num_events} events"
        return f"Dataset({str(self.path)!r}: {sizes})"


def _array(folder: Path, name: str, length: int, dtype: type[np.generic]) -> np.ndarray:
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise _damage(folder, f"{name}.npy", error) from None
    if array.shape != (length,) or array.dtype != dtype:
        raise _damage(
            folder, f"{name}.npy", f"{array.dtype} {array.shape}, not {np.dtype(dtype)} ({length},)"
        )
    return array


def _damage(folder: Path, name: str, why: object) -> DamageError:
    return DamageError(f"{folder / name} is damaged ({why}): make it again with `{_MAKE.format(folder)}`")
