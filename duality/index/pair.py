"""An index: users and items in one folder.

index.json                          manifest: format, spec, dim, model, dataset, created, extra
users.sqlite  items.sqlite          the records (store.py)
users.snapshot.json  users.<seq>.*  the search structure derived from them (snapshot.py), same for items
writer.lock                         held by the process that writes
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from duality.artifacts import atomic_folder, read_json, write_json
from duality.errors import DamageError, DataError, DualityError, InputError
from duality.index.lock import WriterLock
from duality.index.side import Side

if TYPE_CHECKING:
    import pyarrow as pa

    from duality.index.spec import IndexSpec

FORMAT = 1
MARKER = "index.json"
SIDES = ("users", "items")


class Pair:
    """An open index; `users` and `items` are its sides. Use `Pair.open`, close it or use `with`."""

    def __init__(self, path: Path, manifest: dict[str, Any], lock: WriterLock | None) -> None:
        self.path, self.manifest, self._lock = path, manifest, lock
        options = manifest["options"]
        self.users = Side(path, "users", options, writable=lock is not None)
        self.items = Side(path, "items", options, writable=lock is not None)

    @classmethod
    def open(cls, path: str | Path, mode: str = "r") -> Pair:
        """Open an index folder.

        Args:
            path: the folder.
            mode: "r", any number of processes; or "w", one at a time, readers stay unaffected.

        Raises:
            InputError: no index there, or made by a newer version.
            DualityError: another process writes it.
        """
        path = Path(path)
        if mode not in ("r", "w"):
            raise InputError(f'mode {mode!r}: give "r" or "w"')
        manifest = read_manifest(path)
        lock = WriterLock(path) if mode == "w" else None
        try:
            return cls(path, manifest, lock)
        except BaseException:
            if lock:
                lock.release()
            raise

    @property
    def dim(self) -> int:
        """Values per vector, the same on both sides."""
        return self.manifest["dim"]

    def side(self, name: str) -> Side:
        """`users` or `items`.

        Raises:
            InputError: another name.
        """
        if name not in SIDES:
            raise InputError(f"side {name}: give users or items")
        return self.users if name == "users" else self.items

    def close(self) -> None:
        """Close both sides and let the next writer in."""
        try:
            self.users.close()
            self.items.close()
        finally:
            if self._lock:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an index folder.

    Raises:
        InputError: no index there, or made by a newer version.
        DamageError: the manifest is not readable.
    """
    manifest = read_json(path / MARKER, what="index", make="duality index build")
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise DamageError(f"{path / MARKER} is not an index manifest: build the index again")
    if manifest["format"] != FORMAT:
        raise InputError(f"{path} has index format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def build(
    path: str | Path,
    users: pa.Table | str | Path,
    items: pa.Table | str | Path,
    *,
    spec: IndexSpec | str | Path | None = None,
    manifest_extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build an index of both sides; an index that was at `path` is replaced only on success.

    Args:
        path: the folder to make.
        users: columns `id` string and `vector` lists of float32, others become attributes; or a
            Parquet file of that format.
        items: the same.
        spec: an IndexSpec, its name or its TOML file; exact by default.
        manifest_extra: `model` and `dataset` descriptions and whatever else the manifest shall hold.

    Returns:
        users, items (counts), dim, kind, version.

    Raises:
        DataError: a row does not fit; nothing at `path` has changed.
        DualityError: another process writes the index at `path`.
    """
    from duality.index.spec import load_spec

    path, chosen = Path(path), load_spec(spec)
    tables = {"users": users, "items": items}
    extra = dict(manifest_extra or {})
    lock = WriterLock(path) if (path / MARKER).exists() else None
    try:
        with atomic_folder(path, marker=MARKER) as folder:
            dims = {side: _fill(folder, side, tables[side], chosen.options()) for side in SIDES}
            if dims["users"] != dims["items"]:
                raise DataError(f"user vectors have {dims['users']} values, item vectors {dims['items']}")
            manifest = {
                "format": FORMAT,
                "spec": chosen.model_dump(),
                "options": chosen.options(),
                "dim": dims["users"],
                "model": extra.pop("model", None),
                "dataset": extra.pop("dataset", None),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "extra": extra,
            }
            write_json(folder / MARKER, manifest)
    finally:
        if lock:
            lock.release()
    with Pair.open(path) as pair:
        counts = {side: pair.side(side).count for side in SIDES}
        return {**counts, "dim": pair.dim, "kind": chosen.kind, "version": pair.items.version}


def _fill(folder: Path, name: str, source: pa.Table | str | Path, options: Mapping[str, Any]) -> int:
    from duality.index.store import RecordStore
    from duality.index.transfer import ids_of, read_embeddings, vectors_of

    file = str(source) if isinstance(source, str | Path) else name
    table = read_embeddings(Path(source)) if isinstance(source, str | Path) else source
    vectors = vectors_of(table, file)
    if vectors is None or vectors.shape[1] == 0:
        raise DataError("no column vector of at least one value", file=file)
    RecordStore.create(folder / f"{name}.sqlite", vectors.shape[1]).close()
    side = Side(folder, name, options, writable=True)
    try:
        side.upsert(ids_of(table, file), vectors, table)
        side.snapshot()
    except DataError as error:
        raise DataError(str(error), file=file) from None
    finally:
        side.close()
    return vectors.shape[1]


def verify_folder(path: Path) -> list[str]:
    """What is damaged in an index folder, one line each; empty when all is well.

    Raises:
        InputError: there is no index.
    """
    found = []
    try:
        options = read_manifest(path)["options"]
    except DamageError as error:
        return [str(error)]
    for name in SIDES:
        try:
            side = Side(path, name, options, writable=False)
        except DualityError as error:
            found.append(str(error))
            continue
        found += side.verify()
        side.close()
    return found
