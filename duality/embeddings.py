"""Embedding tables of both sides: what a model and the histories make, and what the index stores.

A stored user is [u, -log Z(u)], a stored item [e, 1]: their inner product is log p(item | user),
so one search serves both directions and scores compare across users. An item that training never
saw is stored as [g, 1], made by the item encoder from its users.

Shapes: N rows, U users, I items, E events, D model dimensions; stored vectors have D + 1.
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
from duality.model.two_sided import TwoSided, before_each
from duality.runtime import progress

ROWS = 16_000  # events encoded at once


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
    model: TwoSided, dataset: Dataset, visible: np.ndarray, items: np.ndarray | None = None
) -> Tensor:
    """What the item encoder makes of each item's users, float32 [I, D].

    Args:
        visible: bool [E], events that may be used.
        items: int64, the items wanted; None means all. Rows of others hold the empty state.
    """
    histories = item_histories(dataset, visible)
    if items is not None:
        wanted = np.zeros(dataset.num_items, dtype=bool)
        wanted[items] = True
        kept = wanted[dataset.event_item[histories.event]]
        counts = np.where(wanted, histories.lengths, 0)
        histories = Histories(np.concatenate(([0], np.cumsum(counts))), histories.event[kept])
    vectors = model.empty_item.detach().repeat(dataset.num_items, 1)
    if not len(histories.event):
        return vectors
    states = packed_item_states(model, histories, states_before_events(model, dataset, visible))
    owners = np.flatnonzero(histories.lengths)
    vectors[torch.from_numpy(owners)] = states[torch.from_numpy(histories.indptr[owners + 1] - 1)]
    return vectors


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
def item_vectors(model: TwoSided, dataset: Dataset, visible: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Trained vectors where there are any, generated ones elsewhere.

    Returns:
        float32 [I, D] and bool [I], which rows were generated.
    """
    generated = ~model.trained.numpy()
    vectors = model.item_table.detach().clone()
    if generated.any():
        rows = np.flatnonzero(generated)
        vectors[torch.from_numpy(rows)] = generated_items(model, dataset, visible, rows)[
            torch.from_numpy(rows)
        ]
    return vectors, generated


@torch.inference_mode()
def encode_history(model: TwoSided, vectors: np.ndarray) -> np.ndarray:
    """A user nobody trained on: item vectors float32 [L, D], oldest first, to stored form [D + 1]."""
    states = model.empty_user[None]
    if len(vectors):
        states = model.user_states(torch.from_numpy(vectors), Layout(np.array([len(vectors)])))[-1:]
    return stored_users(model, states)[0]


@torch.inference_mode()
def encode_audience(model: TwoSided, states: np.ndarray) -> np.ndarray:
    """An item nobody trained on: user states float32 [L, D], oldest first, to stored form [D + 1]."""
    vectors = model.empty_item[None]
    if len(states):
        vectors = model.item_states(torch.from_numpy(states), Layout(np.array([len(states)])))[-1:]
    return stored_items(vectors)[0]


@torch.inference_mode()
def stored_users(model: TwoSided, states: Tensor) -> np.ndarray:
    """States float [N, D] as the index stores them: float32 [N, D + 1], [u, -log Z(u)]."""
    return torch.cat((states, -model.log_partition(states)[:, None]), dim=1).float().numpy()


def stored_items(vectors: Tensor) -> np.ndarray:
    """Item vectors float [N, D] as the index stores them: float32 [N, D + 1], [e, 1]."""
    return torch.cat((vectors, torch.ones(len(vectors), 1)), dim=1).float().detach().numpy()


def embed(model: TwoSided, dataset: Dataset) -> tuple[pa.Table, pa.Table]:
    """Both sides of a dataset, all events visible.

    Returns:
        Users and items: columns `id` (string), `vector` (FixedSizeList<float32>[D + 1]), then the
        attributes of the dataset; items also `generated` (true: made from users, not trained).
    """
    visible = np.ones(dataset.num_events, dtype=bool)
    vectors, generated = item_vectors(model, dataset, visible)
    states = user_states(model, dataset, user_histories(dataset, visible), vectors)
    users = _table(dataset.users(), stored_users(model, states))
    items = _table(dataset.items(), stored_items(vectors))
    return users, items.append_column("generated", pa.array(generated))


def write_embeddings(table: pa.Table, path: Path) -> None:
    """Write `id` and `vector` of one side as Parquet, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(table.select(["id", "vector"]), temporary, compression="zstd")


def _table(attributes: pa.Table, vectors: np.ndarray) -> pa.Table:
    values = pa.array(vectors.reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return attributes.add_column(1, "vector", column)


def _rows(vectors: Tensor, rows: np.ndarray) -> Tensor:
    return vectors[torch.from_numpy(rows.astype(np.int64))]
