"""A dataset that grows: one folder per version, and one document that says which is current.

dataset.json                    {format 2, imported, updates}: replaced in one step, which is the update; where users
                                were taken out (forgetting.py) also `import`, the version that the import is now,
                                and `forgotten`, what tells them if they come again
versions/000001/                the import, hard links to the files that lie above it
versions/000002/                the dataset after the first update, a whole dataset folder (dataset.py)
updates/000002.users.npy        int64, rows of the users whose histories that update changed; same for items
writer.lock                     held by whoever appends

Rows never change their meaning from one version to the next: new ids come after the old ones. A folder
that was imported and never updated is its own only version.

Cost: every kept version takes the space of the whole dataset. The import stays, because models were
trained on it, and so do the newest `KEEP`; older ones go when the next is complete.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import fsync_path, read_json, write_json
from duality.errors import DamageError, InputError

MANIFEST, FORMAT = "dataset.json", 2
VERSIONS, UPDATES, IMPORTED = "versions", "updates", "000001"
LOCK = "writer.lock"
KEEP = 2
MAKE = "duality data import SOURCE --out {}"


@dataclass(frozen=True, eq=False)
class Home:
    """All versions of a dataset.

    Args:
        path: the folder that people name.
        imported: fingerprint of the import.
        updates: oldest first, each with `version`, `fingerprint`, `events`, `digest`.
        import_version: of the imported events.
        forgotten: `salt` and `digests` of users who were taken out; empty when nobody was.
    """

    path: Path
    imported: str
    updates: list[dict[str, Any]]
    import_version: str = IMPORTED
    forgotten: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Home:
        """The home of a dataset, named by its own folder or by that of a version.

        Raises:
            InputError: there is no dataset.
            DamageError: its document cannot be read.
        """
        above = path.parent.parent
        path = above if path.parent.name == VERSIONS and (above / MANIFEST).is_file() else path
        document = _document(path)
        if document.get("format") == FORMAT:
            named = document.get("import", IMPORTED), document.get("forgotten", {})
            return cls(path, document["imported"], document["updates"], *named)
        return cls(path, str(document.get("fingerprint")), [])

    @property
    def current(self) -> Path:
        """Folder of the newest version."""
        return self.path / VERSIONS / self.updates[-1]["version"] if self.updates else self.path

    def knows(self, fingerprint: str) -> bool:
        """Whether the dataset is, or was, at this version."""
        return fingerprint in (self.imported, *(update["fingerprint"] for update in self.updates))

    def folder(self, fingerprint: str) -> Path | None:
        """Folder of the version with this fingerprint; None when there is none, or it is not kept."""
        if not self.updates:
            return self.path if fingerprint == self.imported else None
        names = {self.imported: self.import_version, **{u["fingerprint"]: u["version"] for u in self.updates}}
        return self.kept().get(names.get(fingerprint, ""))

    def kept(self) -> dict[str, Path]:
        """Folders of the versions that are kept, oldest first, by name."""
        if not self.updates:
            return {self.import_version: self.path}
        names = dict.fromkeys([self.import_version, *(update["version"] for update in self.updates)])
        folders = {name: self.path / VERSIONS / name for name in names}
        return {name: folder for name, folder in folders.items() if (folder / MANIFEST).is_file()}

    def changed_since(self, fingerprint: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows of the users and of the items whose histories changed after a version.

        Returns:
            Two sorted int64 arrays; None when the dataset never was at `fingerprint`.

        Raises:
            DamageError: what an update changed is not on record.
        """
        if not self.knows(fingerprint):
            return None
        line = [self.imported, *(update["fingerprint"] for update in self.updates)]
        later = self.updates[line.index(fingerprint) :]
        users, items = ([self.changed_by(update, side) for update in later] for side in ("users", "items"))
        none = np.empty(0, np.int64)
        return np.unique(np.concatenate([none, *users])), np.unique(np.concatenate([none, *items]))

    def changed_by(self, update: dict[str, Any], side: str) -> np.ndarray:
        """Rows int64 of `users` or `items` whose histories one update changed."""
        file = self.path / UPDATES / f"{update['version']}.{side}.npy"
        try:
            return np.load(file)
        except (OSError, ValueError) as error:
            raise DamageError(f"{file} is damaged ({error}): build the index again") from None

    def place(self) -> Path:
        """An empty folder to make the next version in; what interrupted updates left is removed."""
        for leftover in (self.path / VERSIONS).glob(".building-*"):
            shutil.rmtree(leftover)
        made = self.path / VERSIONS / f".building-{os.getpid()}"
        made.mkdir(parents=True)
        return made

    def add(
        self, made: Path, fingerprint: str, changed: dict[str, np.ndarray], facts: dict[str, Any]
    ) -> Home:
        """Make the finished folder the current version, in one step; durable on return.

        Args:
            made: a whole dataset folder from `place`.
            fingerprint: of that folder.
            changed: rows int64 of the `users` and `items` whose histories it changed.
            facts: what else to record about the update, with `events` and `digest`.
        """
        if not self.updates:
            _link_import(self.path)
        version = self.next_version()
        self.record(version, changed)
        self.install(made, version)
        added = replace(
            self, updates=[*self.updates, {"version": version, "fingerprint": fingerprint, **facts}]
        )
        added.commit()
        return added

    def next_version(self, after: int = 1) -> str:
        """A name that no version has had."""
        newest = max([self.import_version, *(update["version"] for update in self.updates)])
        return f"{int(newest) + after:06d}"

    def record(self, version: str, changed: dict[str, np.ndarray]) -> None:
        """Write down whose histories a version changed; durable once it is installed."""
        (self.path / UPDATES).mkdir(exist_ok=True)
        for side, rows in changed.items():
            file = self.path / UPDATES / f"{version}.{side}.npy"
            np.save(file, rows)
            fsync_path(file)

    def install(self, made: Path, version: str) -> None:
        """Give a finished folder its name; nothing names it until `commit`."""
        target = self.path / VERSIONS / version
        # What was killed before its last step left a folder of this name; nothing names it yet.
        shutil.rmtree(target, ignore_errors=True)
        for path in (*made.iterdir(), made):
            fsync_path(path)
        os.replace(made, target)
        for folder in (VERSIONS, UPDATES):
            fsync_path(self.path / folder)

    def commit(self) -> None:
        """Make this the dataset, in one step, and remove what it does not name."""
        document: dict[str, Any] = {"format": FORMAT, "imported": self.imported}
        if self.forgotten:
            document |= {"import": self.import_version, "forgotten": self.forgotten}
        write_json(self.path / MANIFEST, {**document, "updates": self.updates})
        self.prune()

    def prune(self) -> None:
        """Remove versions that are not kept and, where users were taken out, all that was there before."""
        newest = list(dict.fromkeys(update["version"] for update in reversed(self.updates)))[:KEEP]
        for folder in (self.path / VERSIONS).iterdir():
            if folder.name not in (self.import_version, *newest):
                shutil.rmtree(folder, ignore_errors=True)
        if self.forgotten:
            recorded = {update["version"] for update in self.updates}
            for file in (*self.path.iterdir(), *(self.path / UPDATES).iterdir()):
                named = file.name in (MANIFEST, LOCK) or file.name.split(".")[0] in recorded
                if file.is_file() and not named:
                    file.unlink()


def folder_at(path: Path, fingerprint: str | None) -> Path:
    """The folder whose files `path` stands for: its current version, or the one with a fingerprint.

    A fingerprint that is not among the kept versions gives the current one: the caller compares.

    Raises:
        InputError: no dataset there, or a version that is no longer kept.
    """
    above = path.parent.parent
    if path.parent.name == VERSIONS and not path.exists() and (above / MANIFEST).is_file():
        raise InputError(
            f"version {path.name} of {above} is no longer kept (the import and the newest {KEEP} are): "
            f"use {above}"
        )
    if fingerprint is None:
        document = _document(path)
        if document.get("format") != FORMAT:
            return path
        return Home.open(path).current
    home = Home.open(path)
    return home.folder(fingerprint) or home.current


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _document(path: Path) -> dict[str, Any]:
    make = MAKE.format(path)
    document = read_json(path / MANIFEST, what="dataset", make=make)
    if not isinstance(document, dict):
        raise DamageError(f"{path / MANIFEST} is no dataset's: make it again with `{make}`")
    return document


def _link_import(home: Path) -> None:
    """Give the imported files a version folder, so that they stay a dataset when dataset.json moves on."""
    folder = home / VERSIONS / IMPORTED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in home.iterdir():
        if file.is_file() and file.name != LOCK:
            link_or_copy(file, folder / file.name)
            fsync_path(folder / file.name)
    fsync_path(folder)
