"""Vectors of some users and items of a dataset, without encoding the others.

Same numbers as `duality.embeddings` gives for the whole dataset: a user is encoded over their whole
history, an item that training never saw from the users of its newest window, each as they were strictly
before the meeting. An item that came after training has a row that `TwoSided.grow` gave it: in the
histories of those users it enters as the item without users, because what it is made of is what is being computed.

Shapes: A asked states, N items or users, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from duality.data.batches import row_batches
from duality.data.dataset import Dataset
from duality.data.histories import Histories, overlapping_windows
from duality.embeddings import (
    ROWS,
    last_moment,
    layout_of,
    stored_generated,
    stored_items,
    stored_users,
    user_layout,
)
from duality.generated import group_of
from duality.model.two_sided import TwoSided

# States of users held at once, 256 MB at 64 dimensions: fewer would encode one user for many items again.
STATES = 1_000_000
Vectors = Callable[[np.ndarray], Tensor]


def generated_vectors(
    model: TwoSided, dataset: Dataset, items: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """What the item encoder makes of the users of some items, stored form float32 [N, D + 3].

    Args:
        items: int64 [N] rows, each with at least one event.
        weights: float32 [GROUPS, 3], what the index weighs generated scores by (`duality.generated`).
    """
    histories = users_of(dataset, items)
    windows = overlapping_windows(histories, model.config.item_history)
    newest = np.flatnonzero(np.append(np.diff(windows.owner) != 0, True))
    made = torch.empty(len(items), model.dim)
    for part in row_batches(_some(windows.histories, newest), STATES):
        made[torch.from_numpy(part)] = _newest_states(model, dataset, windows.histories, newest[part])
    return stored_generated(made, weights[group_of(histories.lengths)])


def mixed_vectors(model: TwoSided, dataset: Dataset, items: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Items as the index stores them, float32 [N, D + 3]: trained ones with their share of g, others g.

    Args and cost as `generated_vectors`.
    """
    vectors, share = generated_vectors(model, dataset, items, weights), np.float32(model.generated_share)
    rows = np.flatnonzero(trained_items(model, items))
    known = stored_items(table_vectors(model, items[rows]))
    vectors[rows] = (1 - share) * known + share * vectors[rows]
    return vectors


def trained_items(model: TwoSided, items: np.ndarray) -> np.ndarray:
    """bool [N]: training saw the item."""
    return model.trained.numpy()[items]


def user_vectors(
    model: TwoSided, dataset: Dataset, users: np.ndarray, vectors: Vectors, asked: int | None = None
) -> np.ndarray:
    """Some users after all their events, stored form float32 [N, D + 3].

    Args:
        users: int64 [N] rows.
        vectors: item rows int64 [P] to the vectors, float32 [P, D], that histories are made of.
        asked: microseconds, for a model that is told when it is asked; None: at the end of the log.
    """
    counts = np.diff(dataset.user_indptr)[users]
    return stored_users(model, states_after(model, dataset, users, counts, vectors, asked))


def users_of(dataset: Dataset, items: np.ndarray) -> Histories:
    """First meetings of some items, in time order: `data.histories.item_histories` of these only."""
    events, lengths = Histories(dataset.item_indptr, dataset.item_event).packed(items)
    owner = np.repeat(np.arange(len(items)), lengths)
    pair = owner * dataset.num_users + dataset.event_user[events]
    by_number = np.argsort(events)
    first = np.zeros(len(events), dtype=bool)
    first[by_number[np.unique(pair[by_number], return_index=True)[1]]] = True
    counts = np.bincount(owner[first], minlength=len(items))
    return Histories(np.concatenate(([0], np.cumsum(counts))), events[first])


def whole_histories(dataset: Dataset, users: np.ndarray) -> Histories:
    """All events of some users."""
    return _first(dataset, users, np.diff(dataset.user_indptr)[users])


def table_vectors(model: TwoSided, items: np.ndarray) -> Tensor:
    """float32 [P, D]: rows of the model's table."""
    return model.item_rows(torch.from_numpy(items)).detach()


@torch.inference_mode()
def states_after(
    model: TwoSided,
    dataset: Dataset,
    users: np.ndarray,
    counts: np.ndarray,
    vectors: Vectors,
    end: int | None = None,
) -> Tensor:
    """Users after their first so many events, float32 [A, D]; every user is encoded once.

    Args:
        users: int64 [A] rows, any number of times each.
        counts: int64 [A]; 0 gives the empty state.
        vectors: item rows to the vectors that histories are made of.
        end: microseconds, when users without a later event are asked; None: at the end of the log.
    """
    owners, mine = np.unique(users, return_inverse=True)
    lengths = np.zeros(len(owners), np.int64)
    np.maximum.at(lengths, mine, counts)
    histories, asked = _first(dataset, owners, lengths), _moments(dataset, owners, lengths, end)
    wanted_of = Histories(
        np.concatenate(([0], np.cumsum(np.bincount(mine)))), np.argsort(mine, kind="stable")
    )
    states = model.empty_user.detach().repeat(len(users), 1)
    for batch in row_batches(histories, ROWS):
        events, rows = histories.packed(batch)
        layout = user_layout(model, dataset, events, rows, asked[batch])
        inputs = vectors(dataset.event_item[events].astype(np.int64))
        wanted, number = wanted_of.packed(batch)
        row = np.repeat(layout.offsets[:-1], number) + counts[wanted] - 1
        known = counts[wanted] > 0
        if known.any():
            states[torch.from_numpy(wanted[known])] = model.user_states(inputs, layout, at=row[known])
    return states


@torch.inference_mode()
def _newest_states(model: TwoSided, dataset: Dataset, histories: Histories, owners: np.ndarray) -> Tensor:
    """g after the last event of some item histories, float [S, D]."""
    chosen = _some(histories, owners)
    users = dataset.event_user[chosen.event].astype(np.int64)
    counts = chosen.event - dataset.user_indptr[users]
    before = states_after(model, dataset, users, counts, lambda items: table_vectors(model, items))
    made = torch.empty(len(owners), model.dim)
    for batch in row_batches(chosen, ROWS):
        rows, lengths = Histories(chosen.indptr, np.arange(len(users))).packed(batch)
        layout = layout_of(model, dataset, chosen.event[rows], lengths, dataset.event_item)
        states = model.item_states(before[torch.from_numpy(rows)], layout)[:, : model.dim]
        made[torch.from_numpy(batch)] = states[torch.from_numpy(layout.last_rows)]
    return made


def _moments(dataset: Dataset, users: np.ndarray, counts: np.ndarray, end: int | None) -> np.ndarray:
    """When users were asked after so many events, int64: at their next event, or at the end."""
    end = last_moment(dataset) if end is None else end
    if dataset.event_time is None:
        return np.full(len(users), end)
    after = dataset.user_indptr[users] + counts
    later = after < dataset.user_indptr[users + 1]
    return np.where(later, dataset.event_time[np.where(later, after, 0)], end)


def _first(dataset: Dataset, users: np.ndarray, lengths: np.ndarray) -> Histories:
    """The first `lengths` events of some users."""
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return Histories(
        indptr, np.repeat(dataset.user_indptr[users] - indptr[:-1], lengths) + np.arange(indptr[-1])
    )


def _some(histories: Histories, owners: np.ndarray) -> Histories:
    events, lengths = histories.packed(owners)
    return Histories(np.concatenate(([0], np.cumsum(lengths))), events)
