"""An index whose records live in a Milvus server: users and items behind one index.json.

index.json   {format, store, name, current, previous, ...}: manifest.py
writer.lock  held by the process that writes; it stands between processes that share the folder.
             Between machines nothing does: let one machine write.

A reader keeps the generation that it opened; the one before the current stays on the server, so
readers of it are safe until the second build after they opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from duality.artifacts import write_json
from duality.errors import DualityError, InputError
from duality.index.lock import WriterLock
from duality.index.remote import schema
from duality.index.remote.building import SIDES, build, point
from duality.index.remote.connection import TIMEOUT, Store, check_url
from duality.index.remote.ledger import Ledger
from duality.index.remote.manifest import LOCK, MARKER, read_manifest, replaceable, rolled_back
from duality.index.remote.side import RemoteSide

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from duality.index.spec import IndexSpec


class RemotePair:
    """An open index on a server; `users` and `items` are its sides. Close it or use `with`."""

    def __init__(self, path: Path, manifest: dict[str, Any], store: Store, lock: WriterLock | None) -> None:
        self.path, self.manifest, self.store, self._lock = path, manifest, store, lock
        self.users, self.items = self._side("users"), self._side("items")

    def _side(self, name: str) -> RemoteSide:
        index, generation = self.manifest["name"], self.manifest["current"]
        ledger = Ledger(self.store, schema.ledger_name(index), generation, name)
        collection = schema.collection_name(index, generation, name)
        options, writable = self.manifest["options"], self._lock is not None
        return RemoteSide(self.store, collection, ledger, name, options, writable=writable, model=self.model)

    @classmethod
    def open(cls, path: str | Path, mode: str = "r", *, timeout: float = TIMEOUT) -> RemotePair:
        """Open an index folder that points to a server.

        Args:
            path: the folder.
            mode: "r", any number of processes; or "w", one at a time, readers stay unaffected.
            timeout: seconds after which a call to the server gives up.

        Raises:
            InputError: no such index there, or made by a newer version.
            MissingExtraError: pymilvus is not installed.
            DualityError: another process writes it, or the server does not answer.
        """
        path = Path(path)
        if mode not in ("r", "w"):
            raise InputError(f'mode {mode!r}: give "r" or "w"')
        manifest = read_manifest(path)
        lock = WriterLock(path) if mode == "w" else None
        store = None
        try:
            store = Store(manifest["store"], timeout)
            pair = cls(path, manifest, store, lock)
            if lock:
                # A process that died between index.json and the aliases left them behind.
                point(store, manifest)
            return pair
        except BaseException:
            _give_up(store, lock)
            raise

    @staticmethod
    def build(
        folder: str | Path,
        store: str,
        users: pa.Table | str | Path,
        items: pa.Table | str | Path,
        *,
        spec: IndexSpec | str | Path | None = None,
        manifest_extra: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any]:
        """Build an index of both sides as a new generation; readers of the old one are unaffected.

        Args:
            folder: where index.json goes, or is.
            store: the server, such as http://host:19530.
            users: columns `id` string and `vector` lists of float32, others become attributes; or a
                Parquet file of that format.
            items: the same.
            spec: an IndexSpec, its name or its TOML file; exact by default.
            manifest_extra: `model` and `dataset` descriptions and whatever else the manifest shall hold.
            timeout: of each call, seconds.

        Returns:
            users, items (counts), dim, kind, version (1).

        Raises:
            DataError: a row does not fit; nothing has changed.
            ConfigError: a kind that is not offered on a server.
            DualityError: the server does not answer or refuses, or another process writes the
                index; nothing has changed.
        """
        from duality.index.spec import load_spec

        folder, chosen = Path(folder), load_spec(spec)
        replaceable(folder, check_url(store))
        folder.mkdir(parents=True, exist_ok=True)
        lock = WriterLock(folder)
        try:
            counts = build(folder, store, {"users": users, "items": items}, chosen, manifest_extra, timeout)
        finally:
            if not (folder / MARKER).exists():
                (folder / LOCK).unlink()
                folder.rmdir()
            lock.release()
        return {**counts, "kind": chosen.kind, "version": 1}

    @property
    def dim(self) -> int:
        """Values per vector, the same on both sides."""
        return self.manifest["dim"]

    @property
    def model(self) -> str | None:
        """Fingerprint of the model whose vectors these are, if known."""
        return (self.manifest.get("model") or {}).get("fingerprint")

    @property
    def generation(self) -> str:
        """The generation that this object reads."""
        return self.manifest["current"]

    def side(self, name: str) -> RemoteSide:
        """`users` or `items`.

        Raises:
            InputError: another name.
        """
        if name not in SIDES:
            raise InputError(f"side {name}: give users or items")
        return self.users if name == "users" else self.items

    def versions(self) -> dict[str, int]:
        """Number of acknowledged batches per side."""
        return {name: self.side(name).version for name in SIDES}

    def refresh(self) -> bool:
        """Move on to the current generation if another process has switched; whether it did.

        Sides taken before stay on the old generation while the server keeps it.
        """
        manifest = read_manifest(self.path)
        if self._lock is not None or manifest["current"] == self.generation:
            return False
        self._enter(manifest)
        return True

    def _enter(self, manifest: dict[str, Any]) -> None:
        before = self.manifest
        self.manifest = manifest
        try:
            self.users, self.items = self._side("users"), self._side("items")
        except BaseException:
            self.manifest = before
            raise

    def rollback(self) -> None:
        """Make the previous generation the current one; a second time leads back again.

        Raises:
            InputError: open for reading, or there is no previous generation.
        """
        if self._lock is None:
            raise InputError(f'{self.path} is open for reading: open it with mode="w"')
        # Entered first: a generation that the server has lost must not become current.
        self._enter(rolled_back(self.manifest))
        write_json(self.path / MARKER, self.manifest)
        point(self.store, self.manifest)

    def tune(self, name: str, queries: NDArray[np.float32], k: int, target: float) -> NoReturn:
        """Refused, as `RemoteSide.tune`."""
        self.side(name).tune(queries, k, target)

    def create_snapshot(self, name: str) -> NoReturn:
        """Refused: a store is copied with its own tools.

        Raises:
            InputError: always; says what to do instead.
        """
        raise InputError(f"{self.path} is on a store: make backups with the store's own tools")

    def restore_snapshot(self, name: str) -> NoReturn:
        """Refused, as `create_snapshot`; `rollback` leads to the previous generation."""
        raise InputError(f"{self.path} is on a store: restore a backup with the store's own tools")

    def snapshots(self) -> dict[str, dict[str, Any]]:
        """None: see `create_snapshot`."""
        return {}

    def verify(self) -> list[str]:
        """What is damaged on either side, one line each; empty when all is well. Reads every row."""
        return [problem for name in SIDES for problem in self.side(name).verify()]

    def close(self) -> None:
        """Hang up and let the next writer in."""
        lock, self._lock = self._lock, None
        _give_up(self.store, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _give_up(store: Store | None, lock: WriterLock | None) -> None:
    # A server that is gone must not keep the lock, nor hide the error that got us here.
    with suppress(DualityError):
        if store:
            store.close()
    if lock:
        lock.release()
