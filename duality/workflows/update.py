"""`duality index update`: new events into the dataset, the users and items they touch into the index.

Steps:  1. a new version of the dataset (data/append.py), 2. items, 3. users, a commit for those that the
        index holds and one for those that are new to it, with their attributes, 4. the index records the version it is at.
        Whatever stops it, the steps before stay and the next update does the rest: what step 2 to 4
        owe is every history that changed since the version that the index recorded.
Cost:   encoding the touched users, and the users of touched items that training never saw; copying the
        arrays of the dataset once.

Items that training saw keep their trained vector; their records are written only when the model mixes
a share of a generated vector into them (`TwoSided.generated_share`) or adds their popularity. A user who is not
in the file keeps their vector even if their history holds an item whose generated vector moved: one
popular new item would otherwise re-encode most users, for a shift that their own next event brings anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from duality.data.append import Appended, append_events
from duality.data.dataset import Dataset
from duality.data.versions import Home
from duality.embeddings import ACTIVITY, LEVEL, fading_counts, last_moment
from duality.errors import InputError
from duality.generated import recorded_weights
from duality.index.lock import WriterLock
from duality.index.recording import record_dataset
from duality.runtime import num_threads
from duality.workflows.attributes import codes_for
from duality.workflows.fresh_vectors import (
    Vectors,
    mixed_vectors,
    table_vectors,
    trained_items,
    user_vectors,
    whole_histories,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from duality.model.two_sided import TwoSided
    from duality.workflows.index import Index


def update(index: Index, events: Any, *, data: Path | None = None, **reading: Any) -> dict[str, Any]:
    """Bring an index and its dataset up to date with new events; durable on return.

    Args:
        index: opened with mode "w".
        events: anything that `import_events` takes.
        data: the dataset; None takes the one that the index recorded.
        reading: options of `append_events`: columns, attributes of new users and items, `where`.

    Returns:
        `events` (added), `dropped` {reason: n}, `users` and `items` (touched), `new_users`, `new_items`,
        `generated` (items moved to a vector made from their users), `kept_trained`, `mixed` (of those, items
        whose share of a generated vector was made again), `version` {side: n},
        `dataset` {path, fingerprint}, `seconds`. Touched are those of the file, and those of updates that
        the dataset has seen and the index has not.

    Raises:
        InputError: the index has no model or histories, is open for reading, or was not built from
            this dataset; or the model has changed.
        DataError: the source cannot be read; names file, row and column. Nothing has changed.
        DualityError: another process writes the index or the dataset.
    """
    started = time.monotonic()
    torch.set_num_threads(num_threads())
    if not index.items.writable:
        raise InputError(f'{index.path} is open for reading: open it with mode="w"')
    at, model = recorded_dataset(index), index.model
    appended, dataset, (users, items) = _append(index, events, data, at, reading)
    written = catch_up(index, appended.home, dataset, users, items)
    trained = trained_items(model, items)
    return {
        "events": appended.events,
        "dropped": appended.dropped,
        "users": len(users),
        "items": len(items),
        "new_users": appended.new_users,
        "new_items": appended.new_items,
        "generated": len(items) - int(trained.sum()),
        "kept_trained": int(trained.sum()),
        "mixed": int(trained_items(model, written).sum()),
        "version": {"users": index.users.version, "items": index.items.version},
        "dataset": {"path": os.path.relpath(appended.home.path), "fingerprint": dataset.fingerprint},
        "seconds": round(time.monotonic() - started, 3),
    }


def catch_up(index: Index, home: Home, dataset: Dataset, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Steps 2 to 4: store the rows whose histories changed as they are now, and the version that they are at.

    Args:
        dataset: the current version of `home`.
        users, items: int64, rows that changed since the version that the index recorded.

    Returns:
        Rows int64 of the items whose records were written.
    """
    model = index.model
    model.grow(dataset.num_items, **codes_for(index.model_folder, dataset, model))
    written = _to_write(index, model, dataset, items)
    _upsert_items(index, model, dataset, written)
    _upsert_users(index, model, dataset, users)
    path = os.path.relpath(home.path, index.path)
    record_dataset(index.pair, {"path": path, "fingerprint": dataset.fingerprint})
    return written


def recorded_dataset(index: Index) -> dict[str, str]:
    """Path and fingerprint of the dataset that the index is at."""
    recorded = index.pair.manifest.get("dataset")
    if not recorded:
        raise InputError(f"{index.path} has no histories to add to: build it from a model")
    return recorded


def _append(
    index: Index, events: Any, data: Path | None, at: dict[str, str], reading: dict[str, Any]
) -> tuple[Appended, Dataset, tuple[np.ndarray, np.ndarray]]:
    """Step 1: what was added, the dataset after it, and rows of users and items that the index lacks."""
    home = Home.open(data or index.path / at["path"])
    lock = WriterLock(home.path)
    try:
        home = Home.open(home.path)
        if home.changed_since(at["fingerprint"]) is None:
            raise InputError(
                f"{index.path} is at dataset {at['fingerprint']}, and {home.path} never was: name the dataset "
                "it was built from with --data, or build the index again"
            )
        appended = append_events(events, home, **reading)
        changed = appended.home.changed_since(at["fingerprint"])
        assert changed is not None
        dataset = Dataset.open(appended.home.path)
    finally:
        lock.release()
    return appended, dataset, changed


def _to_write(index: Index, model: TwoSided, dataset: Dataset, items: np.ndarray) -> np.ndarray:
    """Rows of the items whose records change: made from users, wholly or with the model's share of that."""
    trained = trained_items(model, items)
    if not float(model.generated_share) and not float(model.popularity[0]):
        return items[~trained]
    names = dataset.item_ids.ids(items)
    # A trained item that was deleted stays deleted: it has nothing new to say.
    held = index.items.attributes_of(names)
    return items[~trained | np.array([name in held for name in names], bool)]


def _upsert_items(index: Index, model: TwoSided, dataset: Dataset, rows: np.ndarray) -> None:
    import pyarrow as pa

    if len(rows):
        vectors = mixed_vectors(
            model, dataset, rows, recorded_weights(index.pair.manifest["extra"], index.path)
        )
        ends = (model.popularity, dataset, dataset.event_item, dataset.num_items)
        vectors[:, LEVEL] += _bias(index, rows, *ends)
        for some, attributes in _attributes(index.items, dataset.item_ids.ids(rows), rows, dataset.items()):
            generated = pa.array(~trained_items(model, rows[some]))
            attributes = attributes.append_column("generated", generated)
            index.items.upsert(dataset.item_ids.ids(rows[some]), vectors[some], attributes)


def _upsert_users(index: Index, model: TwoSided, dataset: Dataset, rows: np.ndarray) -> None:
    if len(rows):
        vectors = user_vectors(model, dataset, rows, history_vectors(index, model, dataset, rows))
        ends = (model.activity, dataset, dataset.event_user, dataset.num_users)
        vectors[:, ACTIVITY] += _bias(index, rows, *ends)
        for some, attributes in _attributes(index.users, dataset.user_ids.ids(rows), rows, dataset.users()):
            index.users.upsert(dataset.user_ids.ids(rows[some]), vectors[some], attributes)


def _attributes(
    side: Any, ids: list[str], rows: np.ndarray, table: pa.Table
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Those the index holds, whose attributes stay as they are there, and those it does not, with the dataset's."""
    held = side.attributes_of(ids)
    known = np.array([identifier in held for identifier in ids], bool)
    for some, names in ((known, ["id"]), (~known, table.column_names)):
        if some.any():
            chosen = np.flatnonzero(some)
            yield chosen, table.select(names).take(rows[chosen])


def _bias(
    index: Index, rows: np.ndarray, bias: Tensor, dataset: Dataset, owner: np.ndarray, num_owners: int
) -> np.ndarray:
    """What fading counts add to some rows, float32 [N], on the scale of those that stay as they are.

    All counts fade alike, so instead of lowering everybody who is not in the file since the build, those
    who are get as much more.
    """
    found = fading_counts(bias, dataset, owner, num_owners)
    if found is None:
        return np.zeros(len(rows), np.float32)
    weight, counts = found
    moment = last_moment(dataset)
    passed = (moment - index.pair.manifest["extra"]["moment"]) / 1e6 / counts.seconds
    return weight * (counts.now(moment)[rows] + np.float32(passed))


def history_vectors(index: Index, model: TwoSided, dataset: Dataset, users: np.ndarray) -> Vectors:
    """What these users' histories are made of: trained vectors, and generated ones as the index has them."""
    met = np.unique(dataset.event_item[whole_histories(dataset, users).event])
    untrained = met[~trained_items(model, met)]
    names = dataset.item_ids.ids(untrained)
    records, missing = index.items.get(names)
    gone = set(missing)
    rows = untrained[[name not in gone for name in names]]
    vectors_of = np.array([record["vector"] for record in records], np.float32)
    stored = torch.from_numpy(vectors_of.reshape(-1, index.items.dim))

    def vectors(items: np.ndarray) -> torch.Tensor:
        found = table_vectors(model, items)
        held = np.flatnonzero(np.isin(items, rows))
        place = torch.from_numpy(np.searchsorted(rows, items[held]))
        found[torch.from_numpy(held)] = stored[place, : model.dim]
        return found

    return vectors
