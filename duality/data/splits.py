"""Which events train the weights, which choose among them, which judge them.

Shapes: E events of the dataset, U users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from duality.data.split import Split
from duality.data.split_file import FILE, read_split
from duality.errors import InputError

if TYPE_CHECKING:
    from duality.data.dataset import Dataset


def leave_one_out(dataset: Dataset, *, least: int = 3) -> Split:
    """Last event of each user for test, the one before for validation, the rest for training.

    Users with fewer than `least` events train only (Kang & McAuley, SASRec, 2018: convention A).
    """
    indptr = np.asarray(dataset.user_indptr)
    ends = indptr[1:][np.diff(indptr) >= least]
    train = np.ones(dataset.num_events, dtype=bool)
    train[ends - 1] = False
    train[ends - 2] = False
    return Split("leave-one-out", train, ends - 2, ends - 1)


def temporal(dataset: Dataset, *, share: float = 0.1) -> Split:
    """Cut at two moments: the last `share` of events is test, the `share` before it validation.

    Of each user, the first event after a cut is the one to predict, so a history never holds an
    event that is later than the cut it is asked at.

    Raises:
        InputError: the dataset has an order but no time.
    """
    if dataset.event_time is None:
        raise InputError("the temporal protocol needs times, and this dataset has only an order per user")
    time = np.asarray(dataset.event_time)
    first_cut, second_cut = np.quantile(time, [1 - 2 * share, 1 - share], method="lower")
    train = time < first_cut
    return Split(
        "temporal",
        train,
        _first_per_user(dataset, (time >= first_cut) & (time < second_cut)),
        _first_per_user(dataset, time >= second_cut),
    )


def _first_per_user(dataset: Dataset, mask: np.ndarray) -> np.ndarray:
    events = np.flatnonzero(mask)
    return events[np.unique(dataset.event_user[events], return_index=True)[1]]


def cold_item(dataset: Dataset, *, share: float = 0.2, seed: int = 0) -> Split:
    """A random `share` of the items is removed from training and from every history.

    Test: all events of these items. Validation: the last remaining event of each user with three.
    """
    return _cold("cold-item", dataset, dataset.event_item, dataset.num_items, share, seed)


def cold_user(dataset: Dataset, *, share: float = 0.2, seed: int = 0) -> Split:
    """A random `share` of the users is removed from training and from every history.

    Test: all events of these users. Validation: the last event of each other user with three.
    """
    return _cold("cold-user", dataset, dataset.event_user, dataset.num_users, share, seed)


def _cold(name: str, dataset: Dataset, owner: np.ndarray, rows: int, share: float, seed: int) -> Split:
    removed = np.zeros(rows, dtype=bool)
    removed[np.random.default_rng(seed).permutation(rows)[: round(share * rows)]] = True
    hidden = removed[owner]
    kept = np.flatnonzero(~hidden)
    user = dataset.event_user[kept]
    last = np.append(user[1:] != user[:-1], True)
    enough = np.bincount(user, minlength=dataset.num_users)[user] >= 3
    validation = kept[last & enough]
    train = ~hidden
    train[validation] = False
    return Split(name, train, validation, np.flatnonzero(hidden), np.flatnonzero(removed))


SPLITS: dict[str, Callable[[Dataset], Split]] = {
    "leave-one-out": leave_one_out,
    "temporal": temporal,
    "cold-item": cold_item,
    "cold-user": cold_user,
}


def split_named(dataset: Dataset, name: str) -> Split:
    """The split that `name` names; "file:PATH" reads it from a file (split_file.py).

    Raises:
        InputError: no such split, or the dataset lacks what it needs.
    """
    if name.startswith(FILE):
        return read_split(dataset, name)
    if name not in SPLITS:
        raise InputError(f"no split '{name}': choose one of {', '.join(SPLITS)}, or {FILE}PATH")
    return SPLITS[name](dataset)
