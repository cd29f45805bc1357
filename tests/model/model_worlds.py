"""A small dataset as arrays, and batches of it, without a file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from duality.data.histories import Histories, item_histories, user_histories
from duality.encoders.base import Layout
from duality.model.batch import Batch
from duality.model.rivals import Rivals


def dataset(users: int = 12, items: int = 10, events: int = 90, seed: int = 0) -> SimpleNamespace:
    """Random events with repeats, sorted by user and time, as `Dataset` holds them."""
    rng = np.random.default_rng(seed)
    user = np.sort(np.concatenate((np.arange(users), rng.integers(users, size=events - users))))
    time = rng.permutation(events) * 10
    order = np.lexsort((time, user))
    user, time = user[order].astype(np.int32), time[order].astype(np.int64)
    item = np.concatenate((np.arange(items), rng.integers(items, size=events - items)))
    item = rng.permutation(item).astype(np.int32)
    return with_items(
        SimpleNamespace(event_user=user, event_time=time, num_users=users, num_items=items), item
    )


def with_items(world: SimpleNamespace, item: np.ndarray) -> SimpleNamespace:
    """The same users and times with these items."""
    user, time = world.event_user, world.event_time
    return SimpleNamespace(
        event_user=user,
        event_item=item,
        event_time=time,
        num_users=world.num_users,
        num_items=world.num_items,
        num_events=len(user),
        user_indptr=np.concatenate(([0], np.cumsum(np.bincount(user, minlength=world.num_users)))),
        item_event=np.lexsort((time, item)),
        timed=True,
    )


def everything(world: SimpleNamespace) -> np.ndarray:
    return np.ones(world.num_events, dtype=bool)


def batch(world: SimpleNamespace, histories: Histories, owners: np.ndarray, side: str) -> Batch:
    events, lengths = histories.packed(owners)
    kept = lengths > 0
    members = world.event_item if side == "users" else world.event_user
    return Batch(
        events,
        np.repeat(owners[kept], lengths[kept]),
        members[events].astype(np.int64),
        Layout(lengths[kept], world.event_time[events]),
    )


def both_batches(world: SimpleNamespace) -> tuple[Batch, Batch]:
    mask = everything(world)
    users, items = user_histories(world, mask), item_histories(world, mask)
    return (
        batch(world, users, np.arange(world.num_users), "users"),
        batch(world, items, np.arange(world.num_items), "items"),
    )


def rivals(world: SimpleNamespace) -> Rivals:
    return Rivals(
        world.event_user, world.event_item, world.event_time, np.arange(world.num_events), world.num_items
    )
