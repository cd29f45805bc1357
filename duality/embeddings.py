"""Embedding tables of both sides: what a model and the histories make, and what the index stores.

A stored user is [u, -log Z(u), 1], a stored item [e, 1, 0]: their inner product is log p(item | user),
so one search serves both directions and scores compare across users. An item that training never
saw is stored as [g, 1, level], made by the item encoder from its users.

Shapes: N rows, U users, I items, E events, D model dimensions; stored vectors have D + 2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from duality.artifacts import atomic_file
from duality.data.batches import row_batches
from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.encoders.base import Layout
from duality.generated import group_of, level
from duality.model.two_sided import TwoSided, before_each
from duality.runtime import progress

ROWS = 16_000  # events encoded at once
STORED_EXTRA = 2  # values of a stored vector beyond the model's: partition and level


@torch.inference_mode()
def user_states(model: TwoSided, dataset: Dataset, histories: Histories, vectors: Tensor) -> Tensor:
    """Newest state of every user, float32 [U, D]; users without history get the empty state.

    Args:
        vectors: float32 [I, D], the item vectors that histories are made of.
    """
    states = model.empty_user.detach().repeat(dataset.num_users, 1)
    with progress(len(histories.event), "encoding users", unit="events") as bar:
        for owners in row_batches(histories, ROWS):
            events, lengths = histories.packed(owners)
            layout = Layout(lengths)
            encoded = model.user_states(_rows(vectors, dataset.event_item[events]), layout)
            states[torch.from_numpy(owners)] = encoded[torch.from_numpy(layout.last_rows)]
            bar.advance(len(events))
    return states


@torch.inference_mode()
def user_states_after(model: TwoSided, dataset: Dataset, histories: Histories, vectors: Tensor) -> Tensor:
    """Every user after 0, 1, 2, ... events: float32 [H + U, D], users one after another.

    Args:
        histories: user histories with H events.
        vectors: float32 [I, D], the item vectors that histories are made of.
    """
    states = model.empty_user.detach().repeat(len(histories.event) + histories.num_owners, 1)
    for owners in row_batches(histories, ROWS):
        events, lengths = histories.packed(owners)
        layout = Layout(lengths)
        place = np.repeat(histories.indptr[owners] + owners + 1, lengths) + layout.positions
        encoded = model.user_states(_rows(vectors, dataset.event_item[events]), layout)
        states[torch.from_numpy(place)] = encoded
    return states


@torch.inference_mode()
def states_before_events(model: TwoSided, dataset: Dataset, visible: np.ndarray) -> Tensor:
    """The user's state just before each visible event, float32 [E, D]; other rows are zero."""
    histories = user_histories(dataset, visible)
    states = torch.zeros(dataset.num_events, model.dim)
    for owners in row_batches(histories, ROWS):
        events, lengths = histories.packed(owners)
        layout = Layout(lengths)
        encoded = model.user_states(_rows(model.item_table, dataset.event_item[events]), layout)
        states[torch.from_numpy(events)] = before_each(encoded, model.empty_user, layout)
    return states


@torch.inference_mode()
def generated_items(
    model: TwoSided, dataset: Dataset, visible: np.ndarray
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """What the item encoder makes of each item's users.

    Args:
        visible: bool [E], events that may be used.

    Returns:
        float32 [I, D], the empty state for items without users; int64 [I], how many users each is
        made of; float32 [GROUPS], the levels that put them on the scale of trained items
        (`duality.generated`).
    """
    histories = item_histories(dataset, visible)
    before = states_before_events(model, dataset, visible)
    after = packed_item_states(model, histories, before)
    owners = np.flatnonzero(histories.lengths)
    vectors = model.empty_item.detach().repeat(dataset.num_items, 1)
    vectors[torch.from_numpy(owners)] = after[torch.from_numpy(histories.indptr[owners + 1] - 1)]
    return vectors, histories.lengths, level(model, dataset, visible, histories, before, after)


@torch.inference_mode()
def packed_item_states(model: TwoSided, histories: Histories, before: Tensor) -> Tensor:
    """g after each event of the item histories, float32 [H, D], in the histories' own order.

    Args:
        before: float32 [E, D] of `states_before_events`.
    """
    states = torch.zeros(len(histories.event), model.dim)
    for owners in row_batches(histories, ROWS):
        events, lengths = histories.packed(owners)
        place = np.repeat(histories.indptr[owners], lengths) + Layout(lengths).positions
        states[torch.from_numpy(place)] = model.item_states(before[torch.from_numpy(events)], Layout(lengths))
    return states


@torch.inference_mode()
def item_vectors(
    model: TwoSided,
    dataset: Dataset,
    visible: np.ndarray,
    made: tuple[Tensor, np.ndarray, np.ndarray] | None = None,
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Trained vectors where there are any, generated ones elsewhere.

    Args:
        made: what `generated_items` returned, if that has been done already.

    Returns:
        float32 [I, D]; biases float32 [I], 0 for trained items; bool [I], which were generated.
    """
    generated = ~model.trained.numpy()
    vectors, bias = model.item_table.detach().clone(), np.zeros(dataset.num_items, np.float32)
    if generated.any():
        new, users, levels = made if made is not None else generated_items(model, dataset, visible)
        rows = torch.from_numpy(np.flatnonzero(generated))
        vectors[rows], bias[generated] = new[rows], levels[group_of(users[generated])]
    return vectors, bias, generated


@torch.inference_mode()
def encode_history(model: TwoSided, vectors: np.ndarray) -> np.ndarray:
    """A user nobody trained on: item vectors float32 [L, D], oldest first, to stored form [D + 2]."""
    states = model.empty_user[None]
    if len(vectors):
        states = model.user_states(torch.from_numpy(vectors), Layout(np.array([len(vectors)])))[-1:]
    return stored_users(model, states)[0]


@torch.inference_mode()
def encode_audience(model: TwoSided, states: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """An item nobody trained on: user states float32 [L, D], oldest first, to stored form [D + 2].

    Args:
        levels: float32 [GROUPS], as `embed` returned them.
    """
    vectors = model.empty_item[None]
    if len(states):
        vectors = model.item_states(torch.from_numpy(states), Layout(np.array([len(states)])))[-1:]
    return stored_items(vectors, levels[group_of(np.array([len(states)]))])[0]


@torch.inference_mode()
def stored_users(model: TwoSided, states: Tensor) -> np.ndarray:
    """States float [N, D] as the index stores them: float32 [N, D + 2], [u, -log Z(u), 1]."""
    ends = torch.stack((-model.log_partition(states), torch.ones(len(states))), dim=1)
    return torch.cat((states, ends), dim=1).float().numpy()


def stored_items(vectors: Tensor, bias: np.ndarray | None = None) -> np.ndarray:
    """Item vectors float [N, D] as the index stores them: float32 [N, D + 2], [e, 1, bias]."""
    last = torch.zeros(len(vectors)) if bias is None else torch.from_numpy(bias)
    ends = torch.stack((torch.ones(len(vectors)), last), dim=1)
    return torch.cat((vectors, ends), dim=1).float().detach().numpy()


def embed(model: TwoSided, dataset: Dataset) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Both sides of a dataset, all events visible.

    Returns:
        Users and items: columns `id` (string), `vector` (FixedSizeList<float32>[D + 2]), then the
        attributes of the dataset; items also `generated` (true: made from users, not trained).
        Then the levels of generated items, float32 [GROUPS].
    """
    visible = np.ones(dataset.num_events, dtype=bool)
    made = generated_items(model, dataset, visible)
    vectors, bias, generated = item_vectors(model, dataset, visible, made)
    states = user_states(model, dataset, user_histories(dataset, visible), vectors)
    users = _table(dataset.users(), stored_users(model, states))
    items = _table(dataset.items(), stored_items(vectors, bias))
    return users, items.append_column("generated", pa.array(generated)), made[2]


def write_embeddings(table: pa.Table, path: Path, model: str) -> None:
    """Write `id` and `vector` of one side as Parquet, atomically, with the fingerprint of their model."""
    chosen = table.select(["id", "vector"]).replace_schema_metadata({"duality.model": model})
    with atomic_file(path) as temporary:
        pq.write_table(chosen, temporary, compression="zstd")


def _table(attributes: pa.Table, vectors: np.ndarray) -> pa.Table:
    values = pa.array(vectors.reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return attributes.add_column(1, "vector", column)


def _rows(vectors: Tensor, rows: np.ndarray) -> Tensor:
    return vectors[torch.from_numpy(rows.astype(np.int64))]
