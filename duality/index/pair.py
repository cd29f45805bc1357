"""An open index: users and items of its current generation (generations.py).

A generation's folder:
generation.json                     spec, options, dim, model, dataset, created, tuned, extra
users.sqlite  items.sqlite          the records (store.py), with .head and .seal
users.snapshot.json  users.snapshot-*/  the search structure derived from them (snapshot.py), same for items
"""

from __future__ import annotations

import os
import shutil
import uuid
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from duality.errors import DamageError, DualityError, InputError
from duality.index import generations
from duality.index.building import SIDES, build, sample_of
from duality.index.checking import content_problems
from duality.index.documents import write_document
from duality.index.generations import MANIFEST, ROOT, folder_of, read_manifest, read_root, snapshot_folder
from duality.index.lock import WriterLock, is_written
from duality.index.reads import RecordReads
from duality.index.side import Side

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from duality.index.structures.tuning import Tuned

__all__ = ["SIDES", "Pair", "build", "verify_folder"]


class Pair:
    """An open index; `users` and `items` are its sides. Use `Pair.open`, close it or use `with`."""

    def __init__(self, path: Path, lock: WriterLock | None) -> None:
        self.path, self._lock = path, lock
        self._stamp: object = None
        self._closed = False
        self._enter()

    @classmethod
    def open(cls, path: str | Path, mode: str = "r") -> Pair:
        """Open an index folder.

        Args:
            path: the folder.
            mode: "r", any number of processes; or "w", one at a time, readers stay unaffected.

        Raises:
            InputError: no index there, or made by a newer version.
            DamageError: what is stored is not what was written.
            DualityError: another process writes it.
        """
        from duality.index.upgrade import upgrade_if_old

        path = Path(path)
        if mode not in ("r", "w"):
            raise InputError(f'mode {mode!r}: give "r" or "w"')
        upgrade_if_old(path)
        read_root(path)
        lock = WriterLock(path) if mode == "w" else None
        try:
            return cls(path, lock)
        except BaseException:
            if lock:
                lock.release()
            raise

    @property
    def dim(self) -> int:
        """Values per vector, the same on both sides."""
        return self.manifest["dim"]

    @property
    def model(self) -> str | None:
        """Fingerprint of the model whose vectors these are, if known."""
        return (self.manifest.get("model") or {}).get("fingerprint")

    def side(self, name: str) -> Side:
        """`users` or `items`.

        Raises:
            InputError: another name.
        """
        if name not in SIDES:
            raise InputError(f"side {name}: give users or items")
        return self.users if name == "users" else self.items

    def refresh(self) -> bool:
        """Move on to the current generation if another process has switched; whether it did.

        Sides taken before stay on the old generation and stay usable until they are dropped.
        """
        if self._lock is not None or _stamp(self.path) == self._stamp:
            return False
        before = self.generation
        self._enter()
        return self.generation != before

    def tune(self, name: str, queries: NDArray[np.float32], k: int, target: float) -> Tuned:
        """`Side.tune`, and keep the setting in the index: every later opening uses it."""
        if self._lock is None:
            raise InputError(f'{self.path} is open for reading: open it with mode="w"')
        tuned = self.side(name).tune(queries, k, target)
        self.manifest.setdefault("tuned", {})[name] = tuned.setting
        write_document(self.folder / MANIFEST, self.manifest)
        return tuned

    def create_snapshot(self, name: str) -> Path:
        """Keep a copy of both sides as they are now under a name; other processes may write meanwhile.

        Raises:
            InputError: the name is taken or not usable.
        """
        target = snapshot_folder(self.path, name)
        if target.exists():
            raise InputError(f"snapshot {name} exists: choose another name")
        target.parent.mkdir(exist_ok=True)
        temporary = target.parent / f"building-{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        try:
            for side in SIDES:
                self.side(side).copy_to(temporary)
            write_document(temporary / MANIFEST, {**self.manifest, "version": self.versions()})
            os.rename(temporary, target)
            generations.fsync_path(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def restore_snapshot(self, name: str) -> None:
        """Make a copy of a snapshot the current generation; `rollback` leads back.

        Raises:
            InputError: there is no such snapshot.
            DamageError: it is damaged; nothing has changed.
        """
        if self._lock is None:
            raise InputError(f'{self.path} is open for reading: open it with mode="w"')
        source = snapshot_folder(self.path, name)
        if not source.is_dir():
            known = ", ".join(self.snapshots()) or "none"
            raise InputError(f"no snapshot {name}; there are: {known}")
        manifest = read_manifest(source)
        temporary = self.path / "generations" / f"building-{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        try:
            for side in SIDES:
                opened = _side(source, manifest, side, writable=False)
                opened.copy_to(temporary)
                opened.close()
            write_document(temporary / MANIFEST, manifest)
            self._leave()
            generations.switch(self.path, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._enter()

    def rollback(self) -> None:
        """Make the previous generation the current one; a second time leads back again.

        Raises:
            InputError: there is no previous generation.
        """
        if self._lock is None:
            raise InputError(f'{self.path} is open for reading: open it with mode="w"')
        generations.roll_back(self.path)
        self._leave()
        self._enter()

    def snapshots(self) -> dict[str, dict[str, Any]]:
        """Snapshots by name: created, version per side, model."""
        found = {}
        for folder in sorted((self.path / "snapshots").glob("*")):
            if not folder.name.startswith("building-") and (folder / MANIFEST).exists():
                manifest = read_manifest(folder)
                found[folder.name] = {name: manifest.get(name) for name in ("created", "version", "model")}
        return found

    def versions(self) -> dict[str, int]:
        """Number of commits per side."""
        return {name: self.side(name).version for name in SIDES}

    def close(self) -> None:
        """Close both sides and let the next writer in; closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._leave()
        finally:
            if self._lock:
                self._lock.release()
                self._lock = None

    def _enter(self) -> None:
        """Open the sides of the current generation, which another process may be switching."""
        for attempt in range(20):
            self._stamp = _stamp(self.path)
            root = read_root(self.path)
            folder = folder_of(self.path, root.current)
            try:
                self._open(folder)
            except (DualityError, FileNotFoundError):
                if attempt == 19 or read_root(self.path) == root:
                    raise
                continue
            self.generation, self.folder = root.current, folder
            return

    def _open(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        writable = self._lock is not None
        written = not writable and is_written(self.path)
        self.users, self.items = (
            _side(
                folder,
                manifest,
                name,
                writable=writable,
                written=written,
                asking=partial(sample_of, folder, "users" if name == "items" else "items"),
                elsewhere=partial(erase_copies, self.path, folder, name),
            )
            for name in SIDES
        )
        self.manifest = manifest

    def _leave(self) -> None:
        self.users.close()
        self.items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def erase_copies(path: Path, current: Path, name: str, ids: list[str]) -> None:
    """Delete ids without a trace from every generation and snapshot of an index but the current one."""
    for folder in generations.copies(path):
        if folder.name.startswith("building-"):
            shutil.rmtree(folder)
        elif folder != current:
            side = _side(folder, read_manifest(folder), name, writable=True)
            try:
                side.delete(ids, erase=True)
            finally:
                side.close()


def _side(folder: Path, manifest: dict[str, Any], name: str, **access: Any) -> Side:
    options = dict(manifest["options"])
    tuned = manifest.get("tuned", {}).get(name)
    if tuned:
        options["search"] = tuned
    model = (manifest.get("model") or {}).get("fingerprint")
    return Side(folder, name, options, model=model, **access)


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path / ROOT)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def verify_folder(path: Path) -> list[str]:
    """What is damaged in an index folder, one line each; empty when all is well.

    Raises:
        InputError: there is no index.
    """
    try:
        root = read_root(path)
    except DamageError as error:
        return [str(error)]
    names = {folder_of(path, name): f"generation {name}, " for name in root.previous}
    kept = (path / "snapshots").glob("*")
    names |= {folder: f"snapshot {folder.name}, " for folder in kept if (folder / MANIFEST).exists()}
    names[folder_of(path, root.current)] = ""
    written = is_written(path)
    return [f"{label}{problem}" for folder, label in names.items() for problem in _problems(folder, written)]


def _problems(folder: Path, written: bool) -> list[str]:
    found = []
    try:
        manifest = read_manifest(folder)
    except DualityError as error:
        return [str(error)]
    for name in SIDES:
        try:
            side = _side(folder, manifest, name, writable=False, written=written)
        except DualityError as error:
            found += [str(error), *_details(folder / f"{name}.sqlite")]
            continue
        found += side.verify()
        side.close()
    return found


def _details(database: Path) -> list[str]:
    """Which records are damaged in a store that does not open."""
    try:
        store = RecordReads.open(database, writable=False)
    except DualityError:
        return []
    try:
        return [f"{database}: {problem}" for problem in content_problems(store)]
    finally:
        store.close()


def held_in_copies(path: Path, name: str, ids: list[str]) -> dict[Path, NDArray[np.float32]]:
    """Generations and snapshots of an index that hold any of `ids`, each with the vectors float32 [n, D] of these that
    no other record there has: where two have the same, its bytes say nothing of either.

    Cost: reads all vectors of those copies.
    """
    found = {}
    for folder in generations.copies(path):
        if (folder / MANIFEST).exists():
            side = _side(folder, read_manifest(folder), name, writable=False)
            try:
                if held := [record["id"] for record in side.get(ids)[0]]:
                    found[folder] = _alone(side, held)
            finally:
                side.close()
    return found


def _alone(side: Side, ids: list[str]) -> NDArray[np.float32]:
    vectors = side.vectors(ids)
    alone = [True] * len(ids)
    for names, block in side.blocks():
        for place, vector in enumerate(vectors):
            same = (block == vector).all(axis=1).nonzero()[0].tolist()
            alone[place] &= all(names[row] in ids for row in same)
    return vectors[alone]
