"""A packed batch of one side, and who met whom in it.

Shapes: P rows of the batch, Q rows asked about, S histories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.encoders.base import Layout


@dataclass(frozen=True, eq=False)
class Batch:
    """A packed batch of one side, on the CPU.

    Args:
        events: int64 [P], event numbers, oldest first inside a history.
        owners: int64 [P], the row's user (or item).
        members: int64 [P], the row's item (or user).
        layout: where the histories lie, and when their events happened.
    """

    events: np.ndarray
    owners: np.ndarray
    members: np.ndarray
    layout: Layout


def met_owner_by_member(batch: Batch, rows: np.ndarray) -> np.ndarray:
    """bool [Q, Q]: entry (q, m) is True when the owner of row m has the member of row q.

    The batch holds whole histories, so this is exact: in a user batch, whether user m ever met
    item q in training.
    """
    return _has(batch, rows)[:, _owner_number(batch)[rows]]


def _owner_number(batch: Batch) -> np.ndarray:
    return np.repeat(np.arange(len(batch.layout.lengths)), batch.layout.lengths)


def _has(batch: Batch, rows: np.ndarray) -> np.ndarray:
    """bool [Q, S]: whether history s holds the member of row q."""
    wanted, place = np.unique(batch.members[rows], return_inverse=True)
    column = np.searchsorted(wanted, batch.members).clip(max=len(wanted) - 1)
    found = wanted[column] == batch.members
    has = np.zeros((len(wanted), len(batch.layout.lengths)), dtype=bool)
    has[column[found], _owner_number(batch)[found]] = True
    return has[place]


def forbidden_users(batch: Batch, rows: np.ndarray, met: np.ndarray) -> np.ndarray:
    """bool [Q, Q]: user states m that must not compete for the item of query q.

    Forbidden are users who met the item and, where there is time, states later than the query.
    """
    if batch.layout.times is None:
        return met
    time = batch.layout.times[rows]
    return met | (time[None, :] > time[:, None])
