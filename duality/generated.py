"""Vectors of items that training never saw, on the scale of the trained ones.

The item encoder ranks users well, but its level is free: an item that only ever appears as the answer
learns to score high. Here the level is set by counting. If the generated score were log p(item given
user), then between the n-th and the next user of an item, with d events going by in the whole log,
d x mean p users would be expected. `level` finds, per number of users so far, the constant that makes
expected and counted arrivals equal: the maximum-likelihood multiplier of a Poisson process.

Shapes: E events, I items, H events of the item histories, D dimensions, T intervals.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from duality.data.dataset import Dataset
from duality.data.histories import Histories
from duality.model.two_sided import TwoSided

GROUPS = 7  # 0, 1, 2-3, 4-7, 8-15, 16-31, 32 or more users so far
INTERVALS, STATES = 40_000, 256  # sampled: intervals between arrivals, and users asked about each


def group_of(users: np.ndarray) -> np.ndarray:
    """Group of a number of users so far, int64, 0 to GROUPS - 1."""
    return np.minimum(np.frexp(users)[1], GROUPS - 1).astype(np.int64)


@torch.inference_mode()
def level(
    model: TwoSided,
    dataset: Dataset,
    visible: np.ndarray,
    histories: Histories,
    before: Tensor,
    after: Tensor,
) -> np.ndarray:
    """What to add to generated scores, by number of users so far.

    Args:
        visible: bool [E], events that may be used.
        histories: visible item histories.
        before: float32 [E, D], users strictly before each visible event.
        after: float32 [H, D + 1], items after each event of `histories`, and their own level.

    Returns:
        float32 [GROUPS]; 0 where fewer than 10 arrivals were counted.
    """
    rng = np.random.default_rng(0)
    users_so_far, row, length, arrived = _intervals(dataset, visible, histories, rng)
    chosen = rng.permutation(len(row))[:INTERVALS]
    events = rng.permutation(np.flatnonzero(visible))[:STATES]
    states = before[torch.from_numpy(events)]
    partition = model.log_partition(states)
    vectors = torch.cat((after, model.empty_item[None]))[torch.from_numpy(row[chosen])]
    states = torch.cat((states, torch.ones(len(states), 1)), 1)
    rate = torch.cat([(part @ states.T - partition).exp().mean(1) for part in vectors.split(4096)]).numpy()
    group = group_of(users_so_far[chosen])
    expected = np.bincount(group, rate * length[chosen], minlength=GROUPS)
    counted = np.bincount(group, arrived[chosen], minlength=GROUPS)
    known = counted >= 10
    return np.where(known, np.log(counted.clip(1) / expected.clip(1e-30)), 0.0).astype(np.float32)


def _intervals(
    dataset: Dataset, visible: np.ndarray, histories: Histories, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every stretch between two users of an item, the ones before the first and after the last too.

    Returns:
        Users so far int64 [T]; the row of `after` that was current, -1 for none yet, int64 [T];
        events that went by in the whole log, float64 [T]; whether a user ended it, bool [T].
    """
    seen = np.flatnonzero(visible)
    time = dataset.event_time
    order = rng.permutation(len(seen)) if time is None else np.argsort(time[seen], kind="stable")
    clock = np.zeros(dataset.num_events)
    clock[seen[order]] = np.arange(len(seen))
    owner = np.repeat(np.arange(histories.num_owners), histories.lengths)
    arrival = clock[histories.event]
    arrival = arrival[np.lexsort((arrival, owner))]
    first_row = histories.indptr[:-1] + np.arange(histories.num_owners)
    total = len(arrival) + histories.num_owners
    starts_item = np.zeros(total, dtype=bool)
    starts_item[first_row] = True
    starts, ends = np.zeros(total), np.full(total, float(len(seen)))
    starts[~starts_item] = arrival
    ends_item = np.roll(starts_item, -1)
    ends[~ends_item] = arrival
    row = np.full(total, -1, dtype=np.int64)
    row[~starts_item] = np.arange(len(arrival))
    users = np.arange(total) - np.repeat(first_row, histories.lengths + 1)
    return users, row, ends - starts, ~ends_item
