"""`duality forget`: a user's events, states, vectors and records out of a dataset, its models and an index.

Steps:  1. the dataset, all versions; 2. model folders; 3. the index, all generations and snapshots; 4. items whose
        users have changed are stored anew; 5. a search for traces. Each is durable before the next begins, and a run that
        was cut short is finished by running it again.

What the weights of a model learned from the user's events stays; training again without them removes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import write_json
from duality.data.dataset import Dataset
from duality.data.forgetting import Forgotten, forget_users, is_forgotten
from duality.data.versions import Home
from duality.errors import DualityError, InputError, UnknownIdError
from duality.index.lock import WriterLock
from duality.index.pair import held_in_copies
from duality.index.stores import is_remote
from duality.model.folder import ModelFolder
from duality.model.forgetting import forget_users_in_model
from duality.runtime import say
from duality.workflows.fresh_vectors import trained_items
from duality.workflows.index import Index
from duality.workflows.traces import Places, Search, traces
from duality.workflows.update import catch_up, recorded_dataset

# Splits that stay what they were for everybody else; the others draw among users, or cut at a share of the events.
STEADY = ("leave-one-out", "cold-item")


def forget(
    users: Sequence[str],
    *,
    index: Path | None = None,
    data: Path | None = None,
    models: Sequence[Path] = (),
    may_return: bool = False,
) -> dict[str, Any]:
    """Take users out of everything; durable on return.

    Args:
        users: ids.
        index: index folder; its dataset and model are taken too.
        data: dataset folder, if there is no index or it lies elsewhere now.
        models: more model folders that were trained on the dataset.
        may_return: let later updates bring them back.

    Returns:
        `users` (how many were found), `events`, `dataset` (path or None), `models` [{path, users, states}],
        `index` {path, deleted, copies, items} or None, `searched` {files, bytes}.

    Raises:
        UnknownIdError: nobody has one of the ids, and nobody had.
        InputError: nothing to look in, or a store whose bytes are not ours to erase. Nothing has changed.
        DualityError: traces are left; the message says where.
    """
    places = places_of(index, data, models)
    _check_known(places, users)
    held = {} if index is None else held_in_copies(index, "users", list(users))
    done = _from_dataset(places, users, may_return)
    told = [_from_model(path, done, users) for path in places.models]
    cleaned = _from_index(places, users, len(held))
    search = traces(places, users, [vector for vectors in held.values() for vector in vectors])
    if search.traces:
        raise DualityError(
            f"traces are left: {'; '.join(search.traces)}: close what reads them and run it again"
        )
    return {
        "users": len(users),
        "events": done.events if done else 0,
        "dataset": str(places.dataset) if places.dataset else None,
        "models": told,
        "index": cleaned,
        "searched": {"files": search.files, "bytes": search.bytes},
    }


def look_for(
    users: Sequence[str], *, index: Path | None = None, data: Path | None = None, models: Sequence[Path] = ()
) -> Search:
    """Traces of users; changes nothing. Arguments as `forget`."""
    return traces(places_of(index, data, models), users)


def places_of(index: Path | None, data: Path | None, models: Sequence[Path]) -> Places:
    """Folders to look in: those given, and what an index recorded of its dataset and model.

    Raises:
        InputError: there is none, or the index is on a store.
    """
    found = [Path(model) for model in models]
    if index is not None:
        if is_remote(index):
            raise InputError(f"{index} is on a store, which decides itself when bytes go: delete them there")
        with Index.open(index) as opened:
            manifest = opened.pair.manifest
        if data is None and manifest.get("dataset"):
            data = _beside(index, manifest["dataset"]["path"])
        recorded = manifest.get("model")
        if recorded and (index / recorded["path"] / "config.json").exists():
            found.append(_beside(index, recorded["path"]))
    if data is None and found:
        folder = ModelFolder.open(found[0])
        data = _beside(folder.path, folder.config["data"]["path"])
    if data is None and index is None:
        raise InputError("nowhere to look: give --index, --data or --model")
    unique = {folder.resolve(): folder for folder in found}
    return Places(None if data is None else Home.open(data).path, list(unique.values()), index)


def _beside(folder: Path, recorded: str) -> Path:
    """A path that a folder recorded relative to itself, as people would write it."""
    return Path(os.path.normpath(folder / recorded))


def _check_known(places: Places, users: Sequence[str]) -> None:
    if not users:
        raise InputError("nobody to forget: give --user")
    missing = set(users)
    if places.dataset is not None:
        home, dataset = Home.open(places.dataset), Dataset.open(places.dataset)
        gone = is_forgotten(home, users)
        missing -= {user for user, known in zip(users, gone, strict=True) if known}
        missing -= {user for user in users if dataset.user_ids.find([user])[0] >= 0}
    if missing and places.index is not None:
        missing -= {user for user in missing if held_in_copies(places.index, "users", [user])}
    for user in sorted(missing):
        if places.dataset is not None:
            Dataset.open(places.dataset).user_ids.row(user)
        raise UnknownIdError(f"no user '{user}'")


def _from_dataset(places: Places, users: Sequence[str], may_return: bool) -> Forgotten | None:
    if places.dataset is None:
        return None
    lock = WriterLock(places.dataset)
    try:
        return forget_users(Home.open(places.dataset), users, may_return=may_return)
    finally:
        lock.release()


def _from_model(path: Path, done: Forgotten | None, users: Sequence[str]) -> dict[str, Any]:
    told = forget_users_in_model(ModelFolder.open(path), users)
    if done is not None:
        _renamed_data(path, done.home)
    return {"path": str(path), **told}


def _renamed_data(path: Path, home: Home) -> None:
    """Let a model name the version it was trained on as it is now, if its split is still the same for the others."""
    folder = ModelFolder.open(path)
    recorded, split = folder.config["data"], str(folder.config["split"]["name"])
    # The dataset knows its versions by the fingerprints they had before anybody was taken out.
    known_as = recorded.get("known_as", recorded["fingerprint"])
    version = home.folder(known_as)
    if version is None or not home.forgotten:
        return
    now = Dataset.open(version).fingerprint
    if now == recorded["fingerprint"]:
        return
    if not split.startswith(("file:", *STEADY)):
        say(
            f"{path} was trained for {split}, which draws anew among those who are left: train it again to evaluate it"
        )
        return
    data = {**recorded, "path": os.path.relpath(version, path), "fingerprint": now, "known_as": known_as}
    write_json(path / "config.json", {**folder.config, "data": data})


def _from_index(places: Places, users: Sequence[str], copies: int) -> dict[str, Any] | None:
    if places.index is None:
        return None
    with Index.open(places.index, "w") as index:
        deleted, _ = index.users.delete(users, erase=True)
        items = _items_anew(index, places)
    return {"path": str(places.index), "deleted": deleted, "copies": copies, "items": items}


def _items_anew(index: Index, places: Places) -> int:
    """Store the items anew that are made of users, or weighed by their number; how many."""
    recorded = index.pair.manifest.get("dataset")
    if not recorded or places.dataset is None or not index.pair.manifest.get("model"):
        return 0
    home, at = Home.open(places.dataset), recorded_dataset(index)["fingerprint"]
    changed = home.changed_since(at)
    if changed is None:
        return 0
    dataset = Dataset.open(home.path)
    users, items = changed
    met = np.diff(dataset.item_indptr)[items] > 0
    written = catch_up(index, home, dataset, users, items[met])
    # Nobody else met these: a vector that was made of their users goes, one that was trained stays.
    made = items[~met][~trained_items(index.model, items[~met])]
    if len(made):
        index.items.delete(dataset.item_ids.ids(made), erase=True)
    return len(written)
