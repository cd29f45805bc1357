"""Users taken out of a dataset, every kept version of it, as if they had never been in the log.

Reads:  all kept versions (versions.py).
Writes: each of them anew under a new name. One document then names the new ones, which is the step that
        counts; what it does not name goes. Whatever stops it before leaves the dataset as it was, and
        running it again clears away what was left.
Cost:   reads and writes every kept version once; memory for the arrays of one.

Rows of later users move up. A version keeps the fingerprint by which models and indexes know it, though
its files, and so the fingerprint in its own manifest, are others.

Shapes: U users, E events, R users to take out.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.dataset import Dataset
from duality.data.ids import write_ids
from duality.data.merging import Merged
from duality.data.version_files import EVENT_ATTRIBUTES, link_side, write_arrays, write_manifest, write_table
from duality.data.versions import UPDATES, Home, link_or_copy
from duality.errors import InputError


@dataclass(frozen=True)
class Forgotten:
    """What became of a dataset.

    Args:
        home: as it is now.
        users: who were found and taken out.
        events: of theirs, in the newest version.
    """

    home: Home
    users: list[str]
    events: int


def forget_users(home: Home, users: Sequence[str], *, may_return: bool = False) -> Forgotten:
    """Take users and their events out of every version; durable on return. The caller holds the dataset's lock.

    Args:
        users: ids; those the dataset does not have are passed over.
        may_return: do not keep a salted digest of each id, by which later updates leave them out.

    Raises:
        InputError: nobody, or no event, would be left.
    """
    dataset = Dataset.open(home.path)
    rows = np.unique(dataset.user_ids.find(list(users)))
    rows = rows[rows >= 0]
    if not len(rows):
        if home.forgotten:
            home.prune()
        return Forgotten(home, [], 0)
    _check_others(home, rows)
    theirs = np.isin(dataset.event_user, rows)
    found = dataset.user_ids.ids(rows)
    forgotten = _remembered(home.forgotten, [] if may_return else found)
    facts = {"events": -int(theirs.sum()), "digest": "", "forgotten": len(rows)}
    home = _rewritten(home, rows, np.unique(dataset.event_item[theirs]), facts)
    home = replace(home, forgotten=forgotten)
    home.commit()
    return Forgotten(home, found, int(theirs.sum()))


def _check_others(home: Home, rows: np.ndarray) -> None:
    """Refuse to leave a version without an event."""
    for folder in home.kept().values():
        if np.isin(Dataset.open(folder).event_user, rows).all():
            raise InputError(f"{folder} has no events of other users: delete {home.path} instead")


def is_forgotten(home: Home, users: Sequence[str]) -> np.ndarray:
    """bool [len(users)]: they were taken out, and are not to come back."""
    known = set(home.forgotten.get("digests", ()))
    if not known:
        return np.zeros(len(users), bool)
    return np.array([_digest(home.forgotten["salt"], user) in known for user in users], bool)


def _remembered(forgotten: dict[str, Any], users: Sequence[str]) -> dict[str, Any]:
    """With the digests of more users; the salt keeps lists of likely ids from being tried out elsewhere."""
    salt = forgotten.get("salt") or secrets.token_hex(16)
    digests = {*forgotten.get("digests", ()), *(_digest(salt, user) for user in users)}
    return {"salt": salt, "digests": sorted(digests)}


def _digest(salt: str, user: str) -> str:
    return hmac.new(bytes.fromhex(salt), user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _rewritten(home: Home, rows: np.ndarray, items: np.ndarray, facts: dict[str, Any]) -> Home:
    """All versions without these users, and one more that is the change; nothing names them yet."""
    before = [home.import_version, *(update["version"] for update in home.updates)]
    names = {old: home.next_version(place + 1) for place, old in enumerate(before)}
    (home.path / UPDATES).mkdir(exist_ok=True)
    for old, folder in home.kept().items():
        made = home.place()
        _write_without(Dataset.open(folder), rows, made)
        home.install(made, names[old])
    for update in home.updates:
        users = home.changed_by(update, "users")
        changed = {"users": _moved_up(users, rows), "items": home.changed_by(update, "items")}
        home.record(names[update["version"]], changed)
    last = home.next_version(len(before) + 1)
    home.record(last, {"users": np.empty(0, np.int64), "items": items.astype(np.int64)})
    fingerprint = _twin(home, names[before[-1]], last)
    updates = [{**update, "version": names[update["version"]]} for update in home.updates]
    updates.append({"version": last, "fingerprint": fingerprint, **facts})
    return replace(home, updates=updates, import_version=names[home.import_version])


def _twin(home: Home, name: str, twin: str) -> str:
    """The same version under one more name; its fingerprint."""
    made = home.place()
    for file in (made.parent / name).iterdir():
        link_or_copy(file, made / file.name)
    home.install(made, twin)
    return Dataset.open(made.parent / twin).fingerprint


def _moved_up(users: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of users who stay, where those in `rows` (sorted) are gone."""
    left = users[~np.isin(users, rows)]
    return left - np.searchsorted(rows, left)


def _write_without(dataset: Dataset, rows: np.ndarray, folder: Path) -> None:
    """A whole dataset folder of those who stay."""
    stays = np.ones(dataset.num_users, bool)
    stays[rows[rows < dataset.num_users]] = False
    whole = Merged(
        event_user=np.asarray(dataset.event_user),
        event_item=np.asarray(dataset.event_item),
        event_time=None if dataset.event_time is None else np.asarray(dataset.event_time),
        item_event=np.asarray(dataset.item_event),
        source=np.arange(dataset.num_events),
    )
    merged = whole.only(stays[whole.event_user])
    number = (np.cumsum(stays) - 1).astype(np.int32)
    merged = replace(merged, event_user=number[merged.event_user])
    link_side(dataset, folder, "items")
    write_ids(folder, "users", dataset.user_ids.ids(np.flatnonzero(stays)))
    write_table(folder / "users.parquet", dataset.users().filter(stays))
    attributes = dataset.event_attributes()
    if attributes is not None:
        write_table(folder / EVENT_ATTRIBUTES, attributes.take(merged.source))
    write_arrays(folder, merged, int(stays.sum()), dataset.num_items)
    write_manifest(folder, dataset, merged, int(stays.sum()), dataset.num_items)
